"""Thousands of records: each question is asked once, what is repeated is said once, and how far it is."""

from collections import Counter

import pytest
from command_line import call, errors_in
from input_jobs import PROTEIN, chain, job, write_jobs

from flashbias_fold.inputs import load_inputs
from flashbias_fold.predict import progress

QUESTIONS = ("heavy_atoms", "leaving_atoms", "leaving_groups", "can_be_built", "kind")


class CountingCatalog:
    """A catalog that counts what it is asked."""

    def __init__(self, catalog):
        self._catalog = catalog
        self.asked = Counter()

    def __contains__(self, code):
        self.asked["contains", code] += 1
        return code in self._catalog

    def __getattr__(self, question):
        assert question in QUESTIONS

        def ask(code):
            self.asked[question, code] += 1
            return getattr(self._catalog, question)(code)

        return ask


class Watch:
    """Who is told how far the reading is, and keeps it."""

    def __init__(self):
        self.heard = []

    def reading(self, what):
        self.heard.append(what)

    def checked(self, done, total):
        self.heard.append((done, total))

    def end_reading(self, jobs):
        self.heard.append(jobs)


def write_fasta(path, *records):
    path.write_text("".join(f">{name}\n{letters}\n" for name, letters in records))
    return path


def test_a_catalog_is_asked_once_about_each_component(tmp_path, components):
    records = [(f"record{number}", PROTEIN * 4 + ":dna|GATTACA") for number in range(20)]
    catalog = CountingCatalog(components)
    inputs = load_inputs(write_fasta(tmp_path / "many.fasta", *records), catalog)
    assert len(inputs.jobs) == 20
    assert ("leaving_groups", "LYS") in catalog.asked
    assert set(catalog.asked.values()) == {1}


def test_names_that_are_given_again_are_one_line_and_a_count(tmp_path, components):
    records = [
        ("one", PROTEIN),
        ("two", PROTEIN),
        ("bad", "MK1"),
        *[("one", PROTEIN), ("TWO", PROTEIN)] * 250,
    ]
    path = write_fasta(tmp_path / "many.fasta", *records)
    inputs = load_inputs(path, components)
    assert (len(inputs.jobs), len(inputs.rejected)) == (2, 501)
    bad, repeated = inputs.error_lines()
    assert "job 'bad'" in bad
    assert repeated == (
        f"{path}: name: expected a name of its own for each job, found 500 more jobs with the name of an "
        "earlier one: one, TWO; they are left out"
    )


def test_a_single_repetition_names_its_place(tmp_path, components):
    path = write_fasta(tmp_path / "two.fasta", ("one", PROTEIN), ("one", PROTEIN))
    (line,) = load_inputs(path, components).error_lines()
    assert line == (
        f"{path}: job 'one': name: expected a name of its own, found 'one' again (first in two.fasta)"
    )


def test_the_command_says_it_in_one_line_too(tmp_path):
    path = write_fasta(tmp_path / "many.fasta", *[("same", "MK1"), *[("same", PROTEIN)] * 499])
    done = call("predict", path, "--out", tmp_path / "out", "--model", "demo", check=2)
    letters, repeated = errors_in(done.stderr)
    assert "expected protein letters" in letters
    assert "found 499 more jobs with the name of an earlier one: same" in repeated


def test_a_watch_hears_what_is_read_and_how_far_it_is(tmp_path, components):
    records = write_fasta(tmp_path / "a.fasta", ("one", PROTEIN), ("bad", "MK1"))
    jobs = write_jobs(tmp_path, job(chain(), name="two"), name="b.json")
    for path, heard in (
        (records, [str(records), f"2 records of {records}", (1, 2), (2, 2), 1]),
        (jobs, [str(jobs), (1, 1), 1]),
        (tmp_path, [f"2 files of {tmp_path}", (1, 2), (2, 2), 2]),
    ):
        watch = Watch()
        load_inputs(path, components, watch)
        assert watch.heard == heard


def test_reading_is_said_while_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_MOMENT_S", 0.0)
    reporter = progress.Reporter()
    reporter.reading("many records")
    reporter._timer.join()
    assert capsys.readouterr().err == "reading many records\n"
    reporter.end_reading(1)
    assert capsys.readouterr().err == "", "once is enough"


@pytest.mark.parametrize(("jobs", "said"), [(1, "reading a file\n"), (0, "")])
def test_reading_that_was_quick_is_said_before_the_jobs_if_there_are_any(capsys, jobs, said):
    reporter = progress.Reporter()
    reporter.reading("a file")
    reporter.end_reading(jobs)
    assert capsys.readouterr().err == said


def test_checking_shows_how_far_it_is_unless_quiet(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_CHECKING_INTERVAL_S", 0.0)
    for quiet, said in ((False, "    checked 1,000 of 4,000\n"), (True, "")):
        progress.Reporter(quiet=quiet).checked(1000, 4000)
        assert capsys.readouterr().err == said
    monkeypatch.undo()
    progress.Reporter().checked(1000, 4000)
    assert capsys.readouterr().err == "", "no line while it is quick"
