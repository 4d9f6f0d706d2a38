"""`bench model` as a user runs it: what it prints, what it writes, and how it refuses."""

import csv
import json
import re
import signal
import subprocess
import sys

import pytest
import torch
from command_line import call, environment, errors_in, start

from flashbias_fold.bench.model import options, record
from flashbias_fold.cli.parser import build_parser

TINY = (
    *("bench", "model", "--model", "demo", "--device", "cpu", "--tokens", "9,12", "--cycles", "1"),
    *("--steps", "2", "--samples", "1", "--methods", "stock,dense"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "deep" / "out"
    return call(*TINY, "--repeats", "2", "--out", out, check=0), out


def test_what_is_printed_is_what_is_written(finished):
    done, out = finished
    assert sorted(path.name for path in out.iterdir()) == sorted(record.NAMES)
    found = json.loads((out / "model.json").read_text())
    lines = done.stdout.splitlines()
    assert re.match(r"demo with real weights on .*: fp32, 1 cycles, 2 steps, 1 samples, 2 inter", lines[0])
    head = lines.index("seconds of whole predictions and of their stages:") + 1
    assert lines[head].split() == " ".join(record.COLUMNS).split()
    shown = [line.split() for line in lines[head + 1 : head + 5]]
    assert [line[2:4] for line in shown] == [[str(row["tokens"]), row["method"]] for row in found["rows"]]
    for line, row in zip(shown, found["rows"], strict=True):
        assert float(line[4]) == pytest.approx(row["parts"]["total"]["median_s"], rel=0.01)
    assert "of floor" not in done.stdout, "nothing that a CPU cannot tell"
    assert any(re.match(r"dense +trunk +triangle attention +10 ", line) for line in lines)
    assert "ratio: the median of stock-torch over the method's; above 1 is faster" in lines
    assert lines[-1] == f"results in {out}/ (model.csv, model.svg, model.json)"


def test_progress_goes_to_standard_error(finished):
    lines = finished[0].stderr.splitlines()
    assert lines[0] == "[1/2] 9 tokens: 9 tokens, 2 methods"
    assert re.fullmatch(r"\[2/2\] 12 tokens: done in \d+\.\d s", lines[-1])


def test_rounds_end_when_their_time_is_over_and_the_layers_can_be_left_out(tmp_path):
    done = call(*TINY, "--repeats", "1000", "--seconds", "1", "--no-layers", "--out", tmp_path, check=0)
    rows = json.loads((tmp_path / "model.json").read_text())["rows"]
    for tokens in (9, 12):
        counts = {len(row["parts"]["total"]["rounds_s"]) for row in rows if row["tokens"] == tokens}
        assert len(counts) == 1 and 1 <= counts.pop() < 200
    assert all(row["layers"] == [] for row in rows) and "where the time" not in done.stdout
    with (tmp_path / "model.csv").open(newline="") as file:
        assert {line["kind"] for line in csv.DictReader(file)} == {""}
    assert not re.search("1000 interleaved", done.stdout + (tmp_path / "model.svg").read_text())


def test_one_round_there_is_always(monkeypatch):
    from flashbias_fold.bench.model import run

    monkeypatch.setattr(run._Size, "_would_outlast", lambda *_: True)
    assert "1 interleaved rounds" in call(*TINY, "--no-layers", check=0).stdout.partition("\n")[0]


def test_a_stop_leaves_what_was_done_whole(tmp_path):
    process = start(*TINY, "--repeats", "1", "--tokens", "9,300", "--no-layers", "--out", tmp_path)
    for line in process.stderr:
        if line.startswith("[2/2]"):
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "interrupted"
    assert {row["tokens"] for row in json.loads((tmp_path / "model.json").read_text())["rows"]} == {9}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tokens", "9,x"], "--tokens: expected whole numbers from 1 to 8192"),
        (["--methods", "stick"], "--methods: expected some of stock, stock-cuequivariance"),
        (["--methods", "stock-cuequivariance"], "--methods stock-cuequivariance: needs an NVIDIA GPU"),
        (["--input", "x.json"], "--tokens: the input's sizes are its own"),
        (["--model", "protenix_bas"], "--model: unknown model 'protenix_bas'; did you mean"),
        (["--model", "protenix-v2", "--weights", "real"], "no weights of protenix-v2"),
        (["--plan", "none.yaml"], "--plan: is for the method flashbias"),
        (["--frobnicate"], "--frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_and_status_2(arguments, said):
    done = call(*TINY, *arguments, check=2)
    assert errors_in(done.stderr) == done.stderr.splitlines()
    assert len(errors_in(done.stderr)) == 1 and said in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line_and_status_2():
    done = call("bench", "model", "--device", "cuda", check=2)
    assert errors_in(done.stderr) == done.stderr.splitlines()
    assert "torch sees no NVIDIA GPU" in done.stderr


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_timed(tmp_path):
    (tmp_path / "file").touch()
    done = call(*TINY, "--out", tmp_path / "file" / "out", check=1)
    assert errors_in(done.stderr) == done.stderr.splitlines()


def test_help_explains_everything_and_imports_nothing_heavy():
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    (benchmarks,) = (a for a in commands.choices["bench"]._actions if a.dest == "benchmark")
    text = call("bench", "model", "--help", check=0).stdout
    for action in benchmarks.choices["model"]._actions:
        assert action.help and all(option in text for option in action.option_strings)
        assert all(choice in text for choice in action.choices or ())
    for word in (*options.METHODS, *record.NAMES, "examples:", "random", "exit status"):
        assert word in text
    script = (
        "import sys\n"
        "from flashbias_fold.cli import main\n"
        "main(['bench', 'model', '--help'])\n"
        "main(['bench', 'model', '--tokens', 'x'])\n"
        "sys.exit(bool({'torch', 'rich', 'numpy', 'protenix', 'triton'} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, check=False, capture_output=True, env=environment()).returncode == 0
