"""Names out of the headers of a FASTA file: readable in any script, each its own, safe as folders."""

import os
import re
import sys

import pytest
from input_jobs import PROTEIN, job

from flashbias_fold.errors import InputError
from flashbias_fold.inputs import load_inputs
from flashbias_fold.inputs.job import read_job
from flashbias_fold.inputs.names import made_safe
from flashbias_fold.inputs.place import Place


@pytest.mark.parametrize("header", ["蛋白質一", "β-アミロイド_42", "Москва.1", "ไทย", "हिन्दी", "naïve"])
def test_a_header_in_any_script_is_the_name(tmp_path, components, header):
    path = tmp_path / "a.fasta"
    path.write_text(f">{header} some words\n{PROTEIN}\n", encoding="utf-8")
    (found,) = load_inputs(path, components).jobs
    assert found.name == header


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("sp|P12345|X_HUMAN", "sp_P12345_X_HUMAN"),
        ("a/b\\c", "a_b_c"),
        ("--.dots", "dots"),
        ("x" * 300, "x" * 200),
        ("ok_1.2-3", "ok_1.2-3"),
    ],
)
def test_a_header_in_ascii_is_the_name_that_it_always_was(header, name):
    assert made_safe(header) == name


LOSSY = ["β/δ", "β|δ", "β\\δ", "β🧬δ", "β/蛋", "../β", "β\u200bδ", "\udcff.1", "-β", "蛋" * 100, "蛋" * 101]


def test_headers_that_lose_something_stay_apart_and_safe():
    names = [made_safe(header) for header in LOSSY]
    assert len(set(names)) == len(LOSSY)
    assert names == [made_safe(header) for header in LOSSY]
    for name in names:
        assert re.search("_[0-9a-f]{8}$", name), name
        assert len(name.encode()) <= 200
        assert name.isprintable() and not re.search(r"[/\\|\s]", name)
        assert name[0] not in "-."
        os.fsencode(name)


def test_a_name_that_this_python_cannot_store_is_an_error(monkeypatch, components):
    """The mock: a locale whose encoding lacks a letter; the command line avoids it, a script may have it."""

    def fsencode(name):
        return name.encode("ascii")

    monkeypatch.setattr(os, "fsencode", fsencode)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(InputError, match="expected a name in ascii, as this Python names files"):
        read_job(job(name="蛋白質"), Place("a.json"), components)
