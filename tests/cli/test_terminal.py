"""On a terminal a live display that leaves it as it was; elsewhere plain lines."""

import os
import pty
import re
import signal
import subprocess

import pytest
from command_line import COMMAND, DEMO_BANNER, TINY, assert_whole, call, environment, write_jobs
from conftest import SEQUENCE, protein

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Brackets are rich's markup; a name is none.
JOBS = [protein("[red]one", SEQUENCE[:8]), protein("two", SEQUENCE[:10])]


def on_a_terminal(*arguments, interrupt_at=None):
    """Run on a pseudo-terminal; what it showed, and the exit status."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(TERM="xterm-256color", COLUMNS="80", NO_COLOR=None),
        close_fds=True,
    )
    os.close(slave)
    shown = b""
    while chunk := _read(master):
        shown += chunk
        if interrupt_at and interrupt_at.encode() in shown:
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    os.close(master)
    return shown.decode(), process.wait(timeout=60)


def _read(master):
    try:
        return os.read(master, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return write_jobs(tmp_path_factory.mktemp("terminal") / "jobs.json", *JOBS)


@pytest.fixture(scope="module")
def shown(jobs):
    """What a terminal shows of a run of two jobs, control sequences and all."""
    text, status = on_a_terminal("predict", jobs, "--out", jobs.parent / "out", *TINY)
    assert status == 0, text
    return text


def test_a_terminal_shows_job_and_stage_while_they_run(shown):
    plain = CONTROL.sub("", shown)
    for stage in ("featurize", "trunk", "diffusion", "confidence", "write"):
        assert f"[red]one: {stage}" in plain or f"two: {stage}" in plain, stage
    assert re.search(r"jobs .*1/2", plain)


def test_the_terminal_is_left_as_it_was(shown):
    assert HIDE in shown
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    after = CONTROL.sub("", shown[shown.rindex(SHOW) :])
    assert "diffusion" not in after, "the bars are gone"


def test_a_terminal_keeps_the_lines_of_the_run_and_shows_the_table(shown):
    plain = CONTROL.sub("", shown)
    assert DEMO_BANNER in plain
    for number, name in enumerate(("[red]one", "two"), start=1):
        assert f"[{number}/2] {name}: done in" in plain
    table = plain[plain.index("best structure of each job") :]
    assert "│ [red]one │" in table
    assert "2 done; results in" in table


def test_a_path_on_a_narrow_terminal_can_be_copied(jobs, shown):
    lines = CONTROL.sub("", shown).splitlines()
    for name in ("[red]one", "two"):
        path = jobs.parent / "out" / name / "seed_101" / "predictions" / f"{name}_sample_0.cif"
        assert len(str(path)) > 80 and path.is_file()
        assert str(path) in lines


def test_an_interrupted_run_gives_the_terminal_back(jobs, tmp_path):
    out = tmp_path / "out"
    text, status = on_a_terminal("predict", jobs, "--out", out, *TINY, interrupt_at="[1/2] [red]one: done")
    assert status == 130, text
    assert text.rindex(SHOW) > text.rindex(HIDE)
    assert CONTROL.sub("", text).rstrip().endswith("interrupted; the same command continues where it stopped")
    assert_whole(out)


def test_elsewhere_there_are_plain_lines(jobs):
    done = call("predict", jobs, "--out", jobs.parent / "plain", *TINY, check=0)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == f"reading {jobs}"
    assert lines[1].startswith(DEMO_BANNER)
    assert [line.startswith("warning: --") for line in lines[2:4]] == [True, True], "steps and cycles"
    assert lines[4].startswith("model demo on cpu in fp32, bias flashbias, ready in ")
    assert [line[: line.index(":")] for line in lines if line.startswith("[")] == [
        "[1/2] [red]one", "[1/2] [red]one", "[2/2] two", "[2/2] two"
    ]  # fmt: skip


def test_quiet_is_quiet_on_a_terminal_too(jobs, shown):
    assert on_a_terminal("predict", jobs, "--out", jobs.parent / "out", *TINY, "--quiet") == ("", 0)
