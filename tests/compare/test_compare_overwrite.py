"""A comparison whose entries are replaced: each is the old one or the new one, with all of its methods."""

import json

import pytest
from command_line import TINY, assert_whole, call, errors_in
from command_line import write_jobs as write
from conftest import SEQUENCE, protein

from flashbias_fold.predict import replacement
from flashbias_fold.protenix_adapter.engine import Engine

QUICK = (*TINY[:2], "--steps", "1", "--cycles", "1", "--repeats", "1", "--methods", "stock,dense")
OLD = (*QUICK, "--samples", "2")
NEW = (*QUICK, "--samples", "1", "--overwrite")


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The folder of a complete comparison, which the tests go on with, one after the other."""
    folder = tmp_path_factory.mktemp("compare")
    jobs = write(folder / "jobs.json", protein("one", SEQUENCE[:6]), protein("two", SEQUENCE[:7]))
    out = folder / "cmp"
    call("compare", jobs, "--out", out, *OLD, check=0)
    (out / "one" / "notes.txt").write_text("mine\n")
    return jobs, out


def read(path):
    return json.loads(path.read_text())


def structures(out, name):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.glob(f"{name}/*/seed_*/*/*.cif")}


def assert_the_reports_speak_of_what_is_there(out):
    assert_whole(out)
    if not (out / "report.json").exists():
        assert not (out / "report.csv").exists() and not (out / "report.html").exists()
        return
    for entry in read(out / "report.json")["entries"]:
        assert entry == read(out / entry["name"] / "entry.json")["entry"]
        assert all((out / result["structure"]).is_file() for result in entry["results"])


def test_a_failing_entry_keeps_what_was_there(story, monkeypatch):
    """The mock: the engine fails."""
    jobs, out = story
    before = {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file() and "lock" not in path.name
    }

    def predict(*arguments, **options):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Engine, "predict", predict)
    done = call("compare", jobs, "--out", out, *NEW, check=1)
    assert len(errors_in(done.stderr)) == 2
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and "lock" not in path.name}
    assert after == before


@pytest.mark.parametrize("stage", ["before the first", "before the second", "again"])
def test_an_interrupted_replacement_goes_on_after_the_entries_that_it_has_replaced(story, monkeypatch, stage):
    """The mock: an interruption comes instead of the first or second exchange."""
    jobs, out = story
    old = {name: structures(out, name) for name in ("one", "two")}
    calls = []

    def exchange(one, other):
        calls.append(other.name)
        if stage == "before the first" or (stage == "before the second" and len(calls) == 2):
            raise KeyboardInterrupt
        return genuine(one, other)

    genuine = replacement.exchange
    monkeypatch.setattr(replacement, "exchange", exchange)
    done = call("compare", jobs, "--out", out, *NEW, check=0 if stage == "again" else 130)
    assert_the_reports_speak_of_what_is_there(out)
    count = {name: len(structures(out, name)) for name in ("one", "two")}
    if stage == "before the first":
        assert {name: structures(out, name) for name in ("one", "two")} == old
    elif stage == "before the second":
        assert count == {"one": 3, "two": 6}
        assert structures(out, "two") == old["two"]
    else:
        assert count == {"one": 3, "two": 3}
        assert calls == ["two"]
        assert structures(out, "one") == old["one"]
        assert "one: already replaced before the interruption, skipped" in done.stderr
        assert [entry["name"] for entry in read(out / "report.json")["entries"]] == ["one", "two"]
    assert (out / "one" / "notes.txt").read_text() == "mine\n"
    assert not (out / ".flashbias-fold.new").exists()


def test_another_sequence_under_the_same_name_is_an_error(story, tmp_path):
    _, out = story
    before = structures(out, "one")
    jobs = write(tmp_path / "jobs.json", protein("one", "MKTAYCC"), protein("two", SEQUENCE[:7]))
    done = call("compare", jobs, "--out", out, *QUICK, "--samples", "1", check=1)
    (error,) = errors_in(done.stderr)
    assert "entry 'one'" in error and "another input" in error
    assert "another name" in error and "--out" in error and "--overwrite" in error
    assert structures(out, "one") == before
    assert [entry["name"] for entry in read(out / "report.json")["entries"]] == ["two"]
