"""Whatever is wrong with the arguments or the input: one line that names it, and the status for scripts."""

import json
import re

import pytest
from command_line import DEMO_BANNER, TINY, call, errors_in, run, run_json, write_jobs
from conftest import SEQUENCE, protein

OFFICIAL = "protenix_base_default_v1.0.0"
GOOD = protein("good", SEQUENCE[:8])


def chain(**fields):
    return {"proteinChain": {"sequence": "MKTAYCNW", "count": 1, **fields}}


def job(*sequences, name="bad", **fields):
    return {"name": name, "sequences": list(sequences) or [chain()], **fields}


def ligand(text):
    return {"ligand": {"ligand": text, "count": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Inputs that are no good, beside one that is."""
    folder = tmp_path_factory.mktemp("inputs")
    write_jobs(folder / "good.json", GOOD)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    for name, document in JOBS.items():
        write_jobs(folder / f"{name}.json", document)
    (folder / "nothing").mkdir()
    (folder / "nothing" / "readme.txt").write_text("no input\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "cut.json").write_bytes(CONTENTS["cut.json"])
    (folder / "file").write_text("a file\n")
    return folder


CONTENTS = {
    "empty.json": b"",
    "blank.json": b" \n",
    "binary.json": bytes(range(256)),
    "cut.json": json.dumps([GOOD]).encode()[:-5],
    "number.json": b"3",
    "list.json": b"[]",
    "deep.json": b"[" * 100_000,
    "digits.json": b"[" + b"1" * 10_000 + b"]",
    "twice.json": b'{"name": "bad", "name": "bad", "sequences": []}',
    "empty.fasta": b"",
    "headless.fasta": b"MKTAYC\n",
    "letters.fasta": b">bad\nMKTAYC1\n",
    "nameless.fasta": b">\nMKTAYC\n",
    "prefix.fasta": b">bad\nxna|ACGT\n",
    "good.txt": json.dumps([GOOD]).encode(),
}
JOBS = {
    "letter": job(chain(sequence="MKB")),
    "climbs": job(name="../bad"),
    "count": job(chain(count=0)),
    "alignment": job(chain(unpairedMsaPath="nowhere.a3m")),
    "component": job(ligand("CCD_QQQQQ")),
    "smiles": job(ligand("C(C")),
    "ptm": job(chain(modifications=[{"ptmType": "CCD_SEP", "ptmPosition": 99}])),
    "seeds": job(modelSeeds=["x"]),
    "huge": job(chain(sequence="M" * 1000, count=60)),
}

# what is wrong -> the arguments after `predict` (or all of them), what the line must name
ARGUMENTS = {
    "no command": ([], ["COMMAND", "--help"]),
    "unknown command": (["frobnicate"], ["COMMAND", "'frobnicate'", "predict"]),
    "command misspelled": (["Predict", "good.json"], ["'Predict'"]),
    "no input": (["predict", "--out", "out"], ["INPUT", "predict --help"]),
    "no out": (["predict", "good.json"], ["--out"]),
    "out without a value": (["predict", "good.json", "--out"], ["--out"]),
    "out empty": (["predict", "good.json", "--out", ""], ["--out", "empty"]),
    "input empty": (["predict", "", "--out", "out"], ["INPUT", "empty"]),
    "two inputs": (["predict", "good.json", "more.json", "--out", "out"], ["more.json"]),
    "unknown option": (["predict", "good.json", "--out", "out", "--fast"], ["--fast"]),
    "abbreviated option": (["predict", "good.json", "--out", "out", "--bia", "stock"], ["--bia"]),
    "abbreviated out": (["predict", "good.json", "--ou", "out"], ["--out"]),
    "a value for a switch": (["predict", "good.json", "--out", "out", "--quiet=1"], ["--quiet"]),
    "fetch nothing": (["fetch"], ["NAME", "fetch --help"]),
    "fetch what is not": (["fetch", "protenix_base"], ["'protenix_base'", OFFICIAL, "components"]),
    "doctor with an argument": (["doctor", "me"], ["me"]),
}
OPTIONS = {
    "bias unknown": (["--bias", "dens"], ["--bias", "'dens'", "dense"]),
    "format unknown": (["--format", "xyz"], ["--format", "'xyz'", "pdb"]),
    "device unknown": (["--device", "tpu"], ["--device", "'tpu'", "cpu"]),
    "dtype unknown": (["--dtype", "fp64"], ["--dtype", "'fp64'"]),
    "server unknown": (["--msa-server", "mine"], ["--msa-server", "'mine'"]),
    "model unknown": (["--model", "demmo"], ["--model", "'demmo'", "did you mean demo?"]),
    "model almost": (["--model", OFFICIAL[:-2]], ["--model", f"did you mean {OFFICIAL}?"]),
    "model empty": (["--model", ""], ["--model", "''", "demo"]),
    "model a path": (["--model", "../../weights"], ["--model", "'../../weights'"]),
    "model not fetched": (["--model", OFFICIAL], [OFFICIAL, f"flashbias-fold fetch {OFFICIAL}"]),
    "seeds negative": (["--seeds", "-1"], ["--seeds", "'-1'"]),
    "seeds text": (["--seeds", "x"], ["--seeds", "'x'"]),
    "seeds empty": (["--seeds", ""], ["--seeds", "''"]),
    "seeds with a hole": (["--seeds", "1,,2"], ["--seeds", "'1,,2'"]),
    "seeds a fraction": (["--seeds", "1.5"], ["--seeds", "'1.5'"]),
    "seeds of another script": (["--seeds", "١٢"], ["--seeds", "'١٢'"]),
    "seeds twice": (["--seeds", "1,2,1"], ["--seeds", "twice"]),
    "seeds too large": (["--seeds", "4294967296"], ["--seeds", "4294967295", "4294967296"]),
    "seeds of a thousand digits": (["--seeds", "9" * 9999], ["--seeds", "9" * 60]),
    "samples zero": (["--samples", "0"], ["--samples", "'0'"]),
    "samples negative": (["--samples", "-3"], ["--samples", "'-3'"]),
    "steps zero": (["--steps", "0"], ["--steps", "'0'"]),
    "steps text": (["--steps", "many"], ["--steps", "'many'"]),
    "steps too many": (["--steps", "9" * 12], ["--steps", "999999999,"]),
    "cycles zero": (["--cycles", "00"], ["--cycles", "'00'"]),
    "samples for which there is no memory": (["--samples", "999999999"], ["'good'", "GiB"]),
    "no such device": (["--device", "cuda"], ["--device cuda", "doctor"]),
}
OUT = {
    "out a file": ("file", ["--out", "file: File exists"]),
    "out below a file": ("file/out", ["--out", "file/out: Not a directory"]),
    "out a device": ("/dev/null", ["--out", "/dev/null"]),
    "out where nothing can be made": ("/proc/out", ["--out", "/proc/out"]),
    "out with a name too long": ("o" * 300, ["--out", "File name too long"]),
    "out the input": ("good.json", ["--out"]),
}
INPUTS = {
    "input missing": ("missing.json", ["missing.json", "no such file"]),
    "input a device": ("/dev/null", ["/dev/null"]),
    "input of an unknown kind": ("good.txt", ["good.txt", ".json", ".fasta"]),
    "folder without inputs": ("nothing", ["nothing", "found none"]),
    "folder with a broken file": ("broken", ["broken/cut.json", "JSON"]),
    "JSON empty": ("empty.json", ["empty.json", "line 1, column 1"]),
    "JSON blank": ("blank.json", ["blank.json", "line 2, column 1"]),
    "JSON binary": ("binary.json", ["binary.json", "UTF-8"]),
    "JSON cut": ("cut.json", ["cut.json", "line 1, column"]),
    "JSON a number": ("number.json", ["number.json", "list of jobs", "found 3"]),
    "JSON without jobs": ("list.json", ["list.json", "empty list"]),
    "JSON nested deeply": ("deep.json", ["deep.json", "nested"]),
    "JSON with a long number": ("digits.json", ["digits.json", "too long"]),
    "JSON with a field twice": ("twice.json", ["twice.json", "'name' repeated"]),
    "FASTA empty": ("empty.fasta", ["empty.fasta", "'>'"]),
    "FASTA without header": ("headless.fasta", ["headless.fasta", "'>'"]),
    "FASTA with a bad letter": ("letters.fasta", ["letters.fasta", "'bad'", "chain 1", "'1' at 7"]),
    "FASTA without name": ("nameless.fasta", ["nameless.fasta", "#1", "name"]),
    "FASTA with a bad prefix": ("prefix.fasta", ["prefix.fasta", "'bad'", "'xna|'"]),
    "protein letter": ("letter.json", ["letter.json", "'bad'", "sequences[0].proteinChain.sequence", "'B'"]),
    "name climbs": ("climbs.json", ["climbs.json", "name", "'../bad'"]),
    "count zero": ("count.json", ["'bad'", "sequences[0].proteinChain.count", "found 0"]),
    "alignment missing": ("alignment.json", ["'bad'", "sequences[0].proteinChain.unpaired", "nowhere.a3m"]),
    "component unknown": ("component.json", ["'bad'", "sequences[0].ligand", "QQQQQ"]),
    "SMILES broken": ("smiles.json", ["'bad'", "sequences[0].ligand", "C(C"]),
    "modification past the end": ("ptm.json", ["'bad'", "modifications[0]", "99"]),
    "seed of the job text": ("seeds.json", ["'bad'", "modelSeeds[0]", "'x'"]),
    "too large for the memory": ("huge.json", ["huge.json", "'bad'", "60000 tokens", "GiB"]),
}


def refused(*arguments, names=()):
    """The command line refuses its arguments, with status 2, in one line that has these words in it."""
    done = call(*arguments, check=2)
    assert done.stdout == ""
    lines = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith(("reading ", DEMO_BANNER, "warning: --"))
    ]
    (line,) = lines
    assert line.startswith("error: ")
    assert "unexpected" not in line
    assert line.isprintable()
    for name in names:
        assert name in line, line
    return line


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    yield folder
    assert sorted(folder.rglob("*")) == before, "what is refused leaves nothing behind"


@pytest.mark.parametrize(("arguments", "names"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_wrong_arguments(here, arguments, names):
    refused(*arguments, names=names)


@pytest.mark.parametrize(("options", "names"), OPTIONS.values(), ids=OPTIONS.keys())
def test_wrong_options(here, options, names):
    line = refused("predict", "good.json", "--out", "out", *options, names=names)
    assert len(line) < 600


@pytest.mark.parametrize(("out", "names"), OUT.values(), ids=OUT.keys())
def test_wrong_output_folders(here, out, names):
    refused("predict", "good.json", "--out", out, *TINY, names=names)


def test_results_among_the_inputs_are_refused(here):
    """The next run would take the reports for jobs."""
    refused("predict", ".", "--out", here, *TINY, names=["--out", "INPUT"])


@pytest.mark.parametrize(("path", "names"), INPUTS.values(), ids=INPUTS.keys())
def test_wrong_inputs(here, path, names):
    refused("predict", path, "--out", "out", *TINY, names=names)


def test_a_memory_estimate_says_how_much_is_needed_and_how_much_there_is(here):
    line = refused("predict", "huge.json", "--out", "out", *TINY)
    needed, there = map(int, re.findall(r"(\d+) GiB", line))
    assert needed > 1000 > there > 0


def test_wrong_jobs_of_a_list_are_a_line_each_and_the_good_one_runs(tmp_path):
    wrong = {name: {**document, "name": name} for name, document in JOBS.items() if name != "climbs"}
    jobs = write_jobs(tmp_path / "jobs.json", *wrong.values(), GOOD)
    done = call(
        "predict", jobs, "--out", tmp_path / "out", *TINY, "--format", "pdb", "--steps", "20", check=1
    )
    lines = errors_in(done.stderr)
    assert len(lines) == len(wrong)
    for name in wrong:
        (line,) = (line for line in lines if f"job '{name}'" in line)
        assert line.startswith(f"error: {jobs}: job '{name}': sequences" if name != "seeds" else "error: ")
        assert json.loads((tmp_path / "out" / name / "error.json").read_text())["job"] == name
    assert run_json(tmp_path / "out")["jobs"] == {"good": "done"}


# In a process of its own, as a script meets it


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["COMMAND"]),
        (["predict", "good.json", "--out", "out", "--steps", "0"], ["--steps"]),
        (["predict", "missing.json", "--out", "out"], ["missing.json"]),
        (["predict", "letter.json", "--out", "out"], ["letter.json", "'bad'"]),
        ([b"predict", b"\xff\x1b[31m.json", b"--out", b"out"], [".json"]),
    ],
    ids=["no command", "option", "input", "job", "a name that is no text"],
)
def test_a_script_gets_status_2_and_one_line(here, arguments, names):
    # str() would spoil bytes, which is what arguments are to the system.
    done = run(*(argument.decode("utf-8", "surrogateescape") if isinstance(argument, bytes) else argument
                 for argument in arguments), cwd=here)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(name in line for name in names)


def test_a_cache_and_a_home_that_cannot_be_written_do_not_matter(tmp_path):
    jobs = write_jobs(tmp_path / "jobs.json", GOOD)
    (tmp_path / "file").write_text("no folder\n")
    taken = str(tmp_path / "file")
    env = {"FLASHBIAS_FOLD_CACHE": None, "XDG_CACHE_HOME": taken, "HOME": taken, "PROTENIX_ROOT_DIR": taken}
    done = run("predict", jobs, "--out", tmp_path / "out", *TINY, env=env, check=0)
    assert not errors_in(done.stderr)
    assert (tmp_path / "file").read_text() == "no folder\n"


def test_quiet_is_not_silent_about_errors(here):
    done = call("predict", "letter.json", "--out", "out", *TINY, "--quiet", check=2)
    assert done.stdout == ""
    assert errors_in(done.stderr) == done.stderr.splitlines()
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_where_an_error_comes_from(here):
    done = call("predict", "missing.json", "--out", "out", "--debug", check=2)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: missing.json")
