"""`flashbias-fold bench kernels`: its table and files, what is wrong or missing, and what it refuses."""

import csv
import dataclasses
import json
import platform
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from command_line import call, environment, errors_in, run, start

from flashbias_fold.bench import machine
from flashbias_fold.bench.kernels import methods, options
from flashbias_fold.bench.kernels import run as kernels_run
from flashbias_fold.bench.kernels.run import DTYPES
from flashbias_fold.cli.parser import build_parser
from flashbias_kernels.attention import BACKENDS

ROOT = Path(__file__).parents[2]
SMALL = ("bench", "kernels", "--device", "cpu", "--tokens", "12,20", "--heads", "2", "--dim", "8")
SMALL += ("--ranks", "4,8", "--repeats", "2")
LABELS = ["flashbias R=4", "flashbias R=8", "dense", "none", "sdpa", "protenix"]
GPU_ONLY = ("cuequivariance", "triattention")


@pytest.fixture(scope="module", autouse=True)
def no_interpreter():
    """The tests of the kernels may have asked for Triton's, which takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of everything that runs here, as users start it; its folder."""
    out = tmp_path_factory.mktemp("bench") / "new" / "folder"
    return run(*SMALL, "--out", out, check=0), out


def rows_of(stdout):
    """Pass, tokens, method and the rest of each line of the table."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in stdout.splitlines()]
    return [line for line in lines if line[0] in ("forward", "backward")]


def read(out):
    return json.loads((out / "kernels.json").read_text())


def test_the_table_has_every_method_size_and_pass(finished):
    done, _ = finished
    rows = rows_of(done.stdout)
    for pass_name in ("forward", "backward"):
        for tokens in ("12", "20"):
            here = [row for row in rows if row[:2] == [pass_name, tokens]]
            assert sorted(row[2] for row in here) == sorted(LABELS)
            medians = [float(row[3]) for row in here]
            assert medians == sorted(medians)
            assert [row[5] for row in here if row[2] == "protenix"] == ["1.00"]
            assert all(float(row[6]) < 1e-6 for row in here)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("triangle attention on ") and "fp32, 2 heads of 8, 2 interleaved" in lines[0]
    assert any(line.startswith("ours: backend ") for line in lines)
    assert "ratio: the median of protenix over the method's; above 1 is faster" in lines
    for name in GPU_ONLY:
        assert f"not run: {name}: needs an NVIDIA GPU" in lines
    assert any(line.startswith("not run: flex: on a CPU it compiles") for line in lines)
    assert "floor" not in done.stdout and "MiB" not in done.stdout, "nothing that a CPU cannot tell"


def test_progress_goes_to_standard_error(finished):
    lines = finished[0].stderr.splitlines()
    assert lines[0] == "[1/4] 12 tokens, forward: 6 methods to check and to time"
    assert re.fullmatch(r"\[4/4\] 20 tokens, backward: done in \d+\.\d s", lines[-1])


def test_the_files_are_all_there_and_say_the_same(finished):
    done, out = finished
    assert sorted(path.name for path in out.iterdir()) == ["kernels.csv", "kernels.json", "kernels.svg"]
    record = read(out)
    with (out / "kernels.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    entries = record["rows"] + record["not_run"]
    assert len(table) == len(entries) == len(rows_of(done.stdout)) + 2 * 2 * 3
    for line, entry in zip(table, entries, strict=True):
        for key in ("pass", "tokens", "method", "rank", "status", "median_ms", "ratio", "error", "reason"):
            assert line[key] == ("" if entry.get(key) is None else str(entry[key]))
    timed = [line for line in table if line["status"] == "timed"]
    assert {(line["heads"], line["dim"], line["dtype"]) for line in table} == {("2", "8", "fp32")}
    assert all(line["floor_ms"] == line["peak_memory_bytes"] == "" for line in timed)
    chart = ElementTree.parse(out / "kernels.svg")
    texts = [text.text for text in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert all(texts.count(label) == 1 for label in LABELS)


def test_the_numbers_fit_together(finished):
    for row in read(finished[1])["rows"]:
        assert len(row["rounds_ms"]) == 2
        assert row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["error"] == max(row["errors"].values()) > 0
        assert row["rows_compared"] == row["tokens"]
        assert (row["backend"] in BACKENDS) == (row["method"] in options.OURS)
        shared = {"dense": {"bias"}, "sdpa": {"bias"}, "protenix": {"bias"}, "none": set()}
        gradients = {"q", "k", "v"} | shared.get(row["method"], {"q_factor", "k_factor"})
        assert row["errors"].keys() == ({"out"} if row["pass"] == "forward" else gradients)
        base = next(
            other for other in read(finished[1])["rows"]
            if (other["pass"], other["tokens"], other["method"]) == (row["pass"], row["tokens"], "protenix")
        )  # fmt: skip
        assert row["ratio"] == pytest.approx(base["median_ms"] / row["median_ms"], rel=1e-3)


def test_the_record_says_where_it_is_from_and_nothing_private(finished):
    record = read(finished[1])
    assert record["baseline"] == "protenix"
    assert record["machine"].keys() == {"cpu", "threads", "system"}
    assert record["versions"]["torch"] == version("torch")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["date"])
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
    given = {"device": "cpu", "tokens": [12, 20], "ranks": [4, 8], "dtype": "fp32", "repeats": 2}
    assert given.items() <= record["options"].items()
    text = (finished[1] / "kernels.json").read_text()
    for private in (str(ROOT), str(finished[1]), str(Path.home()) + "/", sys.prefix, platform.node()):
        assert len(private) < 4 or private not in text


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_right_on_a_cpu(dtype):
    done = call(*SMALL, "--dtype", dtype, "--tokens", "17", "--padding", "4", "--repeats", "1", check=0)
    assert len(rows_of(done.stdout)) == 2 * len(LABELS)


def test_only_what_is_asked_for(tmp_path):
    asked = ("--methods", "none, dense,none", "--passes", "forward", "--layout", "contiguous")
    done = call(*SMALL, *asked, "--out", tmp_path, check=0)
    assert sorted(row[2] for row in rows_of(done.stdout)) == ["dense", "dense", "none", "none"]
    assert "not run" not in done.stdout
    record = read(tmp_path)
    assert record["baseline"] is None and "ratio:" not in done.stdout
    assert record["options"]["layout"] == "contiguous"
    assert all(row["ratio"] is None for row in record["rows"])


def test_on_a_gpu_whose_rates_are_known_there_is_a_floor(monkeypatch, tmp_path):
    """The mock: `machine.describe` takes this CPU for an H200, and `peak_bytes` counts."""
    h200 = {
        "gpu": "NVIDIA H200",
        "compute_capability": [9, 0],
        "multiprocessors": 132,
        "max_clock_mhz": 1980.0,
    }
    monkeypatch.setattr(machine, "describe", lambda device: {"cpu": "a CPU", "threads": 2, **h200})
    monkeypatch.setattr(kernels_run, "peak_bytes", lambda step, device: 3 * 2**20)
    done = call(*SMALL, "--dtype", "bf16", "--out", tmp_path, check=0)
    assert done.stdout.startswith("triangle attention on NVIDIA H200, torch ")
    assert done.stdout.splitlines()[1].split()[-3:] == ["of", "floor", "MiB"]
    assert all(row[-2:] == ["0 %", "3"] for row in rows_of(done.stdout))
    for row in read(tmp_path)["rows"]:
        scores, products = row["tokens"] ** 3 * 2, 10 if row["pass"] == "backward" else 4
        operations = products * 8 + 2 * (row["rank"] or 0)
        least = max(scores / 16, scores * operations / 3022) / 132 / 1980e6 * 1e3
        assert row["floor_ms"] == pytest.approx(least, rel=1e-3)
        assert row["share_of_floor"] == pytest.approx(least / row["median_ms"], rel=1e-3)
        dense = row["method"] in ("dense", "sdpa", "protenix")
        assert (row["floor"]["dense_bias_ms"] > 0) == dense
        assert row["peak_memory_bytes"] == 3 * 2**20
    assert ">floor</text>" in (tmp_path / "kernels.svg").read_text()
    plain = call(*SMALL, "--dtype", "fp32", "--tokens", "12", "--passes", "forward", check=0)
    assert all(row[-1] == "3" and "%" not in row[-2] for row in rows_of(plain.stdout)), "fp32 has no one rate"


def test_quiet_says_nothing_and_writes(tmp_path):
    done = call(*SMALL, "--methods", "none", "--quiet", "--out", tmp_path, check=0)
    assert (done.stdout, done.stderr) == ("", "")
    assert read(tmp_path)["rows"]


def replaced(monkeypatch, name, bind, **changes):
    method = dataclasses.replace(methods.METHOD[name], bind=bind, **changes)
    monkeypatch.setitem(methods.METHOD, name, method)


def without_the_bias(problem, shared):
    from flashbias_kernels import biased_attention

    return lambda: biased_attention(problem.q, problem.k, problem.v) + 0 * shared["bias"].sum()


def not_a_number(problem, shared):
    attend = without_the_bias(problem, shared)
    return lambda: attend() * float("nan")


@pytest.mark.parametrize("wrong", [without_the_bias, not_a_number])
def test_a_wrong_method_is_marked_and_not_timed(monkeypatch, tmp_path, wrong):
    replaced(monkeypatch, "sdpa", wrong)
    done = call(*SMALL, "--tokens", "12", "--out", tmp_path, check=1)
    marked = [row for row in rows_of(done.stdout) if row[2] == "sdpa"]
    assert [row[:4] for row in marked] == [[name, "12", "sdpa", "wrong"] for name in ("forward", "backward")]
    assert all(float(row[4]) > 0.1 for row in marked)
    assert rows_of(done.stdout).index(marked[0]) == len(LABELS) - 1, "after all that are right"
    rows = [row for row in read(tmp_path)["rows"] if row["method"] == "sdpa"]
    assert {(row["status"], row["median_ms"], row["ratio"]) for row in rows} == {("wrong", None, None)}
    assert all(row["rounds_ms"] == [] for row in rows)
    assert "sdpa" not in (tmp_path / "kernels.svg").read_text()


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out):
        return out.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.01


def test_a_wrong_gradient_alone_is_found(monkeypatch):
    right = methods.METHOD["dense"].bind

    def bind(problem, shared):
        attend = right(problem, shared)
        return lambda: _WrongGradient.apply(attend())

    replaced(monkeypatch, "dense", bind)
    done = call(*SMALL, "--tokens", "12", check=1)
    dense = {row[0]: row for row in rows_of(done.stdout) if row[2] == "dense"}
    assert dense["forward"][3] != "wrong"
    assert dense["backward"][3:] == ["wrong", "1.0e-02"]


def test_a_wrong_baseline_gives_no_ratios(monkeypatch):
    replaced(monkeypatch, "protenix", without_the_bias)
    done = call(*SMALL, "--tokens", "12", "--methods", "protenix,dense", "--passes", "forward", check=1)
    assert [len(row) for row in rows_of(done.stdout)] == [6, 5]


def raising(error):
    def bind(problem, shared):
        def attend():
            raise error

        return attend

    return bind


FAILURES = {
    "a peer": ("sdpa", RuntimeError("no\nkernel at /home/someone/secret/kernel.cu"), 0,
               "not run: sdpa: RuntimeError: no kernel at kernel.cu"),
    "ours": ("dense", RuntimeError("no kernel"), 1, "failed: dense: RuntimeError: no kernel"),
    "memory": ("dense", torch.cuda.OutOfMemoryError("CUDA out of ..."), 0, "not run: dense: out of memory"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "error", "status", "line"), FAILURES.values(), ids=FAILURES.keys())
def test_one_that_fails_is_listed_and_the_others_go_on(monkeypatch, tmp_path, name, error, status, line):
    replaced(monkeypatch, name, raising(error))
    done = call(*SMALL, "--out", tmp_path, check=status)
    assert line in done.stdout.splitlines(), "once, though it failed for every size and pass"
    assert len(rows_of(done.stdout)) == 4 * (len(LABELS) - 1)
    entries = [entry for entry in read(tmp_path)["not_run"] if entry["method"] == name]
    assert [entry["status"] for entry in entries] == [line.partition(":")[0]] * 4
    assert "/home/" not in (tmp_path / "kernels.json").read_text()


def test_one_that_cannot_go_backward_is_timed_forward(monkeypatch):
    def bind(problem, shared):
        return lambda: methods.METHOD["dense"].bind(problem, shared)().detach()

    replaced(monkeypatch, "sdpa", bind)
    done = call(*SMALL, check=0)
    assert [row[:2] for row in rows_of(done.stdout) if row[2] == "sdpa"] == [
        ["forward", "12"],
        ["forward", "20"],
    ]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("not run: sdpa"))
    assert line.startswith("not run: sdpa (backward 12, backward 20): RuntimeError: ")


def test_the_backend_that_is_asked_for_runs_or_it_is_a_failure():
    words = ("--methods", "dense,sdpa", "--passes", "forward", "--tokens", "12")
    done = run(*SMALL, *words, "--backend", "sdpa", check=0)
    assert "ours: backend sdpa" in done.stdout
    done = run(*SMALL, *words, "--backend", "triton", check=1)
    assert [row[2] for row in rows_of(done.stdout)] == ["sdpa"]
    assert "which has no compiler" in done.stdout


def test_what_the_machine_has_no_memory_for_is_not_tried(monkeypatch):
    replaced(monkeypatch, "protenix", raising(AssertionError("tried")), scores=(10**9, 10**9))
    done = call(*SMALL, "--tokens", "12", check=0)
    assert re.search(r"^not run: protenix: would need about [\d,]+ GiB of memory, and there are \d+$",
                     done.stdout, re.MULTILINE)  # fmt: skip


def test_nothing_timed_is_a_failure():
    done = call(*SMALL, "--methods", "cuequivariance", check=1)
    assert "not run: cuequivariance: needs an NVIDIA GPU" in done.stdout.splitlines()


REFUSED = {
    "no benchmark": ([], ["BENCHMARK", "bench --help"]),
    "unknown benchmark": (["model2"], ["'model2'", "kernels"]),
    "tokens": (["kernels", "--tokens", "64,x"], ["--tokens", "'64,x'", "1 to 65536"]),
    "no tokens": (["kernels", "--tokens", "0"], ["--tokens", "'0'"]),
    "ranks": (["kernels", "--ranks", "1025"], ["--ranks", "1 to 1024"]),
    "heads": (["kernels", "--heads", "0"], ["--heads", "'0'"]),
    "repeats": (["kernels", "--repeats", "-1"], ["--repeats"]),
    "method": (["kernels", "--methods", "dense,fast"], ["--methods", "'fast'", *options.METHODS]),
    "no method": (["kernels", "--methods", ""], ["--methods"]),
    "dtype": (["kernels", "--dtype", "fp8"], ["--dtype", "'fp8'", "bf16", "fp16", "fp32"]),
    "passes": (["kernels", "--passes", "all"], ["--passes", "'all'"]),
    "layout": (["kernels", "--layout", "odd"], ["--layout", "'odd'"]),
    "padding": (["kernels", "--padding", "x"], ["--padding", "'x'"]),
    "all padding": (["kernels", "--tokens", "32,16", "--padding", "16"], ["--padding", "fewer than 16"]),
    "a file": (["kernels", "--out", __file__], ["--out", "test_bench_kernels.py", "no folder"]),
    "huge": (["kernels", "--device", "cpu", "--tokens", "64,65536"], ["--tokens 65536", "GiB of memory"]),
    "abbreviated": (["kernels", "--token", "64"], ["--token"]),
}


@pytest.mark.parametrize(("arguments", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_one_line_and_status_2(arguments, named):
    done = call("bench", *arguments, check=2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert errors_in(line) and all(name in line for name in named)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line_and_status_2():
    done = call("bench", "kernels", "--device", "cuda", check=2)
    assert errors_in(done.stderr) == done.stderr.splitlines()
    assert "torch sees no NVIDIA GPU" in done.stderr


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_timed(tmp_path):
    (tmp_path / "file").touch()
    done = call(*SMALL, "--out", tmp_path / "file" / "out", check=1)
    assert errors_in(done.stderr) == done.stderr.splitlines()


def test_an_interruption_leaves_nothing_torn(tmp_path):
    process = start(*SMALL, "--repeats", "100000", "--out", tmp_path / "out")
    assert process.stderr.readline().startswith("[1/4] 12 tokens")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "interrupted"
    assert list((tmp_path / "out").iterdir()) == []


def test_help_explains_everything_and_imports_nothing_heavy():
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    (benchmarks,) = (a for a in commands.choices["bench"]._actions if a.dest == "benchmark")
    text = call("bench", "kernels", "--help", check=0).stdout
    for action in benchmarks.choices["kernels"]._actions:
        assert action.help and all(option in text for option in action.option_strings)
        assert all(choice in text for choice in action.choices or ())
    for word in (*options.METHODS, "examples:", "kernels.csv", "kernels.json", "kernels.svg", "float64"):
        assert word in text
    assert "kernels" in call("bench", "--help", check=0).stdout
    script = (
        "import sys\n"
        "from flashbias_fold.cli import main\n"
        "main(['bench', 'kernels', '--help'])\n"
        "main(['bench', 'kernels', '--tokens', 'x'])\n"
        "sys.exit(bool({'torch', 'rich', 'numpy', 'protenix', 'triton'} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, check=False, capture_output=True, env=environment()).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_every_method_that_is_there_is_right(tmp_path):
    done = call("bench", "kernels", "--tokens", "72,128", "--repeats", "2", "--out", tmp_path, check=0)
    record = read(tmp_path)
    assert {row["status"] for row in record["rows"]} == {"timed"}
    assert {"flashbias", "dense", "none", "sdpa", "flex"} <= {row["method"] for row in record["rows"]}
    assert all(row["peak_memory_bytes"] > 0 for row in record["rows"])
    assert record["machine"]["gpu"] in done.stdout
