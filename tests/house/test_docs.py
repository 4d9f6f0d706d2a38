"""What the documentation says of the command line is what the command line does."""

import re
import shlex
from pathlib import Path

import pytest

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
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


def shown_commands():
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(
            r"^ {4}.*?(flashbias-fold (?:predict|status|compare|fetch|doctor|bench) .*)$", text, re.MULTILINE
        ):
            if "[options]" not in line:
                yield pytest.param(line, id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_on_a_page_parses(line):
    parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("page", [*PAGES, ROOT / "data" / "README.md"], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_report_fields_are_those_of_the_page():
    """The page is checked against the code that makes the report, field by field."""
    page = (ROOT / "docs" / "predict.md").read_text()
    source = (ROOT / "flashbias_fold" / "predict" / "job.py").read_text()
    record = source[source.index("record = {") : source.index("folder.write_seed_record")]
    for field in re.findall(r'^ {12}"(\w+)":', record, re.MULTILINE):
        assert f"`{field}`" in page, field
