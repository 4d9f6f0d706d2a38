"""What the documentation says of the command line is what the command line does."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import TINY, call, report_of, write_jobs
from conftest import protein

from flashbias_fold.cli.parser import build_parser, parse

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Options of other programs that the pages show.
FOREIGN = {
    "--rm", "--gpus", "--user", "--volume", "--tag", "--nv", "--bind", "--wheel-dir", "--no-deps",
    "--venv", "--set", "--editable", "--cluster", "--nproc-per-node",
}  # fmt: skip


def commands(parser=None, words=()):
    """Every parser that has options, by the words that lead to it."""
    parser = parser or build_parser()
    inner = next((action.choices for action in parser._actions if isinstance(action.choices, dict)), None)
    if inner is None:
        return {" ".join(words): parser}
    return {name: found for word in inner for name, found in commands(inner[word], (*words, word)).items()}


def options(parser):
    pairs = [(name, action) for action in parser._actions for name in action.option_strings]
    return {name: action for name, action in pairs if name.startswith("--")}


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_the_table_of_options_is_complete_and_says_no_more():
    text = (ROOT / "docs" / "predict.md").read_text()
    rows = re.findall(r"^\| `(--[a-z-]+)[^`]*` \|(.*)\|$", text, re.MULTILINE)
    known = options(commands()["predict"])
    assert sorted(name for name, _ in rows) == sorted(known.keys() - {"--help"})
    for name, meaning in rows:
        choices = known[name].choices or ()
        missing = [choice for choice in choices if f"`{choice}`" not in meaning]
        assert not missing, f"{name}: {missing} not explained"


@pytest.mark.parametrize("name", commands())
def test_every_option_and_choice_is_explained_in_the_help(name):
    parser = commands()[name]
    text = " ".join(parser.format_help().split())
    for action in parser._actions:
        assert action.help and len(action.help) > 10, action
        for choice in action.choices or ():
            assert choice in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_on_a_page_exists(page):
    text = page.read_text()
    known = {option for parser in commands().values() for option in options(parser)} | FOREIGN
    for script in re.findall(r"scripts/\w+\.py", text):
        known |= set(re.findall(r'"(--[a-z-]+)"', (ROOT / script).read_text()))
    assert options_in(text) <= known


def test_options_of_other_programs_are_still_shown():
    """What is allowed everywhere and stands nowhere would hide a mistake."""
    assert set().union(*(options_in(page.read_text()) for page in PAGES)) >= FOREIGN


def shown_commands():
    """Every command line in an indented block of a page, and among the examples of a help text."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ").replace(" [options]", "")
        for line in re.findall(r"^ {4}.*?\bflashbias-fold ([a-z].*)$", text, re.MULTILINE):
            yield page.name, line
    for name, parser in {"": build_parser(), **commands()}.items():
        examples = re.findall(
            r"^ {2}flashbias-fold ([a-z].*?)(?: {2,}.*)?$", parser.epilog or "", re.MULTILINE
        )
        for line in examples:
            yield f"{name} --help".strip(), line


@pytest.mark.parametrize(
    "line", [pytest.param(line, id=f"{where}: {line[:60]}") for where, line in shown_commands()]
)
def test_every_command_that_is_shown_parses(line):
    parse(shlex.split(line, comments=True))


@pytest.mark.parametrize("where", ["README.md", "--help"])
def test_every_command_is_shown_on_the_first_page_and_in_the_help(where):
    lines = [line for place, line in shown_commands() if place == where]
    assert [name for name in commands() if not any(line.startswith(name) for line in lines)] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "data" / "README.md"], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def names_in(value):
    """Return every name in a JSON document, those of inner dictionaries too."""
    if isinstance(value, list):
        return {name for inner in value for name in names_in(inner)}
    return set(value).union(*map(names_in, value.values())) if isinstance(value, dict) else set()


def test_report_fields_are_those_of_the_page(tmp_path):
    """The page is checked against a report, field by field, and says of none that is not there."""
    call(
        "predict",
        write_jobs(tmp_path / "jobs.json", protein("one", "MTPAV")),
        "--out",
        tmp_path,
        *TINY,
        check=0,
    )
    report = report_of(tmp_path, "one")
    page = (ROOT / "docs" / "predict.md").read_text()
    (described,) = re.findall(r"^`report.json` holds (.*?)\n\n", page, re.MULTILINE | re.DOTALL)
    said = set(re.findall(r"`(\w+)`", described))
    shown = {name: report[name] for name in ("layers", "stages_s", "samples", "seeds")}
    assert report["layers"] and report["samples"]
    assert set(report) | names_in(shown) == said
