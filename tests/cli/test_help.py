"""Help and version: at once, on standard output, with every option explained."""

import re
import subprocess
import sys

import pytest
from command_line import call, environment, run

from flashbias_fold import __version__
from flashbias_fold.cli.parser import build_parser

COMMANDS = ["predict", "status", "compare", "calibrate", "plan", "bench", "fetch", "doctor"]
HELP = [["--help"], ["-h"], *([command, "--help"] for command in COMMANDS), ["predict", "-h"]]
HEAVY = {
    "torch",
    "protenix",
    "runner",
    "rdkit",
    "numpy",
    "rich",
    "biotite",
    "Bio",
    "gemmi",
    "ml_collections",
    "ray",
    "yaml",
}


@pytest.mark.parametrize("arguments", [*HELP, ["--version"]], ids=" ".join)
def test_help_and_version_go_to_stdout_with_status_0(arguments):
    done = call(*arguments, check=0)
    assert done.stdout.strip()
    assert done.stderr == ""


def test_help_and_version_in_a_process_of_their_own():
    for arguments in (["--help"], ["predict", "--help"], ["--version"]):
        done = run(*arguments, check=0)
        assert done.stdout == call(*arguments).stdout
        assert done.stderr == ""


def test_version_is_the_packages():
    assert call("--version").stdout == f"flashbias-fold {__version__}\n"


def test_help_wins_over_other_mistakes():
    assert call("predict", "--help", "--frobnicate").returncode == 0


@pytest.mark.parametrize(
    "arguments", [*HELP, ["--version"], ["predict"], ["predict", "x", "--steps", "0"]], ids=" ".join
)
def test_nothing_heavy_is_imported_for_an_answer_about_usage(arguments):
    script = (
        "import sys\n"
        "from flashbias_fold.cli import main\n"
        "main(sys.argv[1:])\n"
        "print('modules:', *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    modules = done.stderr.partition("modules:")[2].split()
    assert "flashbias_fold.cli.parser" in modules
    assert not HEAVY.intersection(modules)


def test_every_option_of_every_command_is_explained():
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    assert set(commands.choices) == set(COMMANDS)
    for name, parser in commands.choices.items():
        text = call(name, "--help").stdout
        for action in parser._actions:
            assert action.help, (name, action.dest)
            assert all(option in text for option in action.option_strings)


def test_help_names_the_exit_statuses_and_the_outputs():
    assert re.search(r"0 all done, 1 .*, 2 .*, 130 interrupted", call("--help").stdout)
    text = call("predict", "--help").stdout
    for name in ("NAME_sample_K.cif", "NAME_summary_confidence_sample_K.json", "report.json", "error.json",
                 "summary.csv", "run.json"):  # fmt: skip
        assert name in text
