"""Running the command line as users do, and reading what it leaves behind."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import gemmi
import numpy as np

from flashbias_fold.cli import main

COMMAND = [sys.executable, "-m", "flashbias_fold"]
# The smallest run that still goes through everything.
TINY = ("--model", "demo", "--steps", "2", "--cycles", "1", "--samples", "1")
# All kinds of files, and enough steps for coordinates that the PDB format has room for: fewer than five leave
# too much of the noise.
FULL = (
    "--model",
    "demo",
    "--steps",
    "8",
    "--cycles",
    "1",
    "--samples",
    "2",
    "--format",
    "both",
    "--write-pae",
)
DEMO_BANNER = "DEMONSTRATION"


def environment(**changes):
    """The environment of a user: output is buffered there. What is None is not set."""
    changes = {"PYTHONUNBUFFERED": None, **changes}
    return {key: value for key, value in {**os.environ, **changes}.items() if value is not None}


def run(*arguments, check=None, env=None, **kwargs):
    """The command line in a process of its own, to its end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        text=True,
        timeout=300,
        env=environment(**(env or {})),
        **{**pipes, **kwargs},
    )
    assert "Traceback" not in (done.stderr or "")
    if check is not None:
        assert done.returncode == check, f"{done.stdout}{done.stderr}"
    return done


def start(*arguments, env=None, **kwargs):
    """The command line in a process of its own, left running."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        text=True,
        env=environment(**(env or {})),
        **{**pipes, **kwargs},
    )


def call(*arguments, check=None):
    """The command line in this process, which has imported everything already; what it sets is put back."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        try:
            status = main([str(argument) for argument in arguments])
        finally:
            logging.disable(logging.NOTSET)
            sys.unraisablehook = hook
            for number, handler in handlers.items():
                signal.signal(number, handler)
    stdout, stderr = (_content(stream) for stream in (out, err))
    if check is not None:
        assert status == check, stdout + stderr
    return subprocess.CompletedProcess(arguments, status, stdout, stderr)


def _content(stream):
    stream.flush()
    return stream.buffer.getvalue().decode()


def write_jobs(path, *jobs):
    """Jobs as a Protenix JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(jobs)))
    return path


def errors_in(text):
    """The lines that say what is wrong."""
    return [line for line in text.splitlines() if line.startswith("error:")]


def report_of(out, name):
    """`report.json` of a job."""
    return json.loads(Path(out, name, "report.json").read_text())


def error_of(out, name):
    """`error.json` of a job."""
    return json.loads(Path(out, name, "error.json").read_text())


def run_json(out):
    """`run.json` of a run."""
    return json.loads(Path(out, "run.json").read_text())


def predictions(out):
    """The content of every structure and confidence file, by its path in the output folder."""
    files = Path(out).glob("*/seed_*/predictions/*")
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}


# What says where a structure comes from, beside all that Protenix writes.
ORIGIN_CATEGORIES = ("_struct.", "_software.", "_flashbias_fold.")
ORIGIN_FIELDS = (
    "notice", "model", "demo_model", "bias", "plan", "dtype", "steps", "cycles", "seed", "sample", "software",
)  # fmt: skip


def without_origin(name, content):
    """The content of a structure (mmCIF) or of its confidences, but for where these come from."""
    if name.endswith(".json"):
        fields = json.loads(content)
        own = {key: value for key, value in fields.items() if key not in ORIGIN_FIELDS}
        return json.dumps(own, indent=4).encode()
    parts = content.decode().split("\n#\n")
    own = [part for part in parts if not part.removeprefix("loop_\n").startswith(ORIGIN_CATEGORIES)]
    return "\n#\n".join(own).encode()


def assert_whole(out):
    """Every file under its final name is complete: a reader of its format reads it to the end."""
    for path in Path(out).rglob("*"):
        reader = _READERS.get(path.suffix)
        if reader and path.is_file():
            reader(path)


def _read_cif(path):
    text = path.read_text()
    assert text.endswith("\n#\n"), "the end of the last table"
    structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text).sole_block())
    assert structure[0].count_atom_sites() > 0


def _read_pdb(path):
    assert gemmi.read_pdb(str(path))[0].count_atom_sites() > 0
    cif = path.with_suffix(".cif")
    if cif.is_file():
        assert (
            gemmi.read_pdb(str(path))[0].count_atom_sites()
            == gemmi.read_structure(str(cif))[0].count_atom_sites()
        )


def _read_csv(path):
    text = path.read_text()
    rows = list(csv.reader(text.splitlines()))
    assert text.endswith("\n")
    assert {len(row) for row in rows} == {len(rows[0])}


def _read_npz(path):
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].size for name in arrays)


_READERS = {
    ".cif": _read_cif,
    ".pdb": _read_pdb,
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": _read_csv,
    ".npz": _read_npz,
}
