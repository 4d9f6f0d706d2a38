"""Which structure is the truth of which job, and what a folder of both is read as."""

import gzip
import os
import shutil
from pathlib import Path

import pytest
from assemblies import TRUTH
from command_line import write_jobs
from conftest import SEQUENCE
from conftest import protein as protein_job

from flashbias_fold.compare.assembly import read_assembly
from flashbias_fold.compare.entries import Truths, read_jobs
from flashbias_fold.errors import InputError, UsageError
from flashbias_fold.inputs import Job

DOMAIN = TRUTH / "1fs1A00.pdb.gz"
OTHER = TRUTH / "1g6xA00.pdb.gz"


def job(name):
    return Job(name, Path("jobs.json"), {}, n_token=1, n_atom=1, n_chain=1, seeds=(), warnings=())


def files(folder, *names):
    """Empty files: which is whose is told by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def names_of(path, *jobs):
    """What is found for each job, by the file's name."""
    found = Truths.find(path).of([job(name) for name in jobs])
    return {name: file.name for name, file in found.items()}


class Watch:
    """Hears what is read."""

    def __init__(self):
        self.heard = []

    def reading(self, what):
        self.heard.append(what)

    def checked(self, done, total):
        pass

    def end_reading(self, jobs):
        self.heard.append(jobs)


# Truths


@pytest.mark.parametrize(
    "name", ["1abc.cif", "1ABC.CIF", "1abc.cif.gz", "1aBc.mmcif", "1abc.pdb", "1ABC.Pdb.GZ", "1abc.ent.gz"]
)
def test_a_truth_has_the_name_of_its_job_in_any_case(tmp_path, name):
    files(tmp_path / "truth", name)
    assert names_of(tmp_path / "truth", "1abc") == {"1abc": name}
    assert names_of(tmp_path / "truth", "1ABC", "2xyz") == {"1ABC": name}


def test_a_name_is_all_that_is_before_the_suffixes(tmp_path):
    folder = files(tmp_path, "a.b.cif", "a.pdb.gz", "ab.cif")
    assert names_of(folder, "a.b", "a", "ab") == {"a.b": "a.b.cif", "a": "a.pdb.gz", "ab": "ab.cif"}


def test_other_files_and_folders_are_passed_over(tmp_path):
    folder = files(tmp_path, "one.cif", "one.json", "notes.txt", "two.cif.bak", "three.gz", "README")
    (folder / "two.cif").mkdir()
    files(folder / "deeper", "three.cif")
    assert set(Truths.find(folder).files) == {"one"}
    assert names_of(folder, "one", "two", "three") == {"one": "one.cif"}
    shutil.rmtree(folder / "deeper")
    (folder / "one.cif").unlink()
    with pytest.raises(UsageError, match=r"has no experimental structure \(\.cif, \.mmcif, \.pdb, \.ent\)"):
        Truths.find(folder)


def test_of_several_of_one_name_the_first_by_name_is_taken(tmp_path):
    folder = files(tmp_path, "one.pdb.gz", "one.pdb", "one.mmcif", "one.ent", "one.cif.gz", "one.cif")
    for expected in ("one.cif", "one.cif.gz", "one.ent", "one.mmcif", "one.pdb", "one.pdb.gz"):
        assert names_of(folder, "one") == {"one": expected}
        (folder / expected).unlink()


def test_a_single_file_is_that_of_a_single_job_whatever_its_name(tmp_path):
    files(tmp_path, "truth.cif")
    assert names_of(tmp_path / "truth.cif", "one") == {"one": "truth.cif"}
    # One of several has to be named.
    assert names_of(tmp_path / "truth.cif", "one", "Truth") == {"Truth": "truth.cif"}
    with pytest.raises(UsageError, match=r"truth\.cif has no structure.*such as one\.cif"):
        names_of(tmp_path / "truth.cif", "one", "two")
    # In a folder too: a folder may become larger.
    with pytest.raises(UsageError, match=r"named after an entry, such as one\.cif"):
        names_of(tmp_path, "one")


def test_without_jobs_there_is_nothing_to_complain_of(tmp_path):
    assert names_of(files(tmp_path, "one.cif")) == {}


def test_what_is_no_structure_is_refused(tmp_path):
    files(tmp_path, "truth.txt")
    with pytest.raises(UsageError, match=r"--truth: .*truth\.txt: expected a structure \(\.cif"):
        Truths.find(tmp_path / "truth.txt")
    with pytest.raises(UsageError, match=r"--truth: .*nowhere: no such file or folder"):
        Truths.find(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_said(tmp_path):
    folder = files(tmp_path / "closed", "one.cif")
    folder.chmod(0)
    try:
        with pytest.raises(UsageError, match="Permission denied"):
            Truths.find(folder)
    finally:
        folder.chmod(0o700)


# Jobs


def jobs_of(path, components):
    """Names of the jobs, the file of each one's truth, and what was rejected."""
    inputs, truths = read_jobs(path, components)
    return [one.name for one in inputs.jobs], truths, [str(one.error) for one in inputs.rejected]


def test_jobs_alone_bring_no_truth(tmp_path, components):
    path = write_jobs(tmp_path / "in" / "jobs.json", protein_job("one"), protein_job("two"))
    for place in (path, path.parent):
        assert jobs_of(place, components) == (["one", "two"], {}, [])


def test_a_structure_is_a_job_and_its_own_truth(tmp_path, components):
    for name in ("1fs1A00.pdb.gz", "Other Name.PDB.gz"):
        path = tmp_path / name
        shutil.copy(DOMAIN, path)
        inputs, truths = read_jobs(path, components)
        (only,) = inputs.jobs
        assert only.name == name[: name.lower().index(".pdb")].replace(" ", "_")
        assert truths == {only.name: path} and inputs.rejected == ()
        assert only.n_token == 41
        assert only.n_atom == len(read_assembly(path)) + 1  # the oxygen at the end, which is not resolved


def test_a_folder_of_structures_is_a_job_each(tmp_path, components):
    shutil.copy(DOMAIN, tmp_path / "b.pdb.gz")
    (tmp_path / "a.ent").write_bytes(gzip.decompress(OTHER.read_bytes()))
    files(tmp_path, "notes.txt")
    (tmp_path / "c.cif").mkdir()
    found = jobs_of(tmp_path, components)
    assert found == (["a", "b"], {"a": tmp_path / "a.ent", "b": tmp_path / "b.pdb.gz"}, [])


def test_in_a_folder_of_both_a_structure_of_a_jobs_name_is_its_truth(tmp_path, components):
    write_jobs(tmp_path / "jobs.json", protein_job("One"), protein_job("two"))
    (tmp_path / "more.fasta").write_text(f">three\n{SEQUENCE}\n")
    for name in ("ONE.pdb.gz", "three.pdb.gz", "four.pdb.gz"):
        shutil.copy(DOMAIN, tmp_path / name)
    found, truths, rejected = jobs_of(tmp_path, components)
    assert found == ["One", "two", "three", "four"], "jobs first"
    assert {name: file.name for name, file in truths.items()} == {
        "One": "ONE.pdb.gz", "three": "three.pdb.gz", "four": "four.pdb.gz",
    }  # fmt: skip
    assert rejected == []


def test_a_structure_that_is_a_truth_is_not_read_for_its_sequence(tmp_path, components):
    write_jobs(tmp_path / "jobs.json", protein_job("one"))
    files(tmp_path, "one.cif")  # empty: what is wrong with it is said when it is compared
    assert jobs_of(tmp_path, components) == (["one"], {"one": tmp_path / "one.cif"}, [])


def test_of_structures_of_one_name_the_first_is_taken_as_with_truth(tmp_path, components):
    for name in ("one.pdb.gz", "ONE.ent.gz"):
        shutil.copy(DOMAIN, tmp_path / name)
    expected = tmp_path / "ONE.ent.gz"
    assert jobs_of(tmp_path, components) == (["ONE"], {"ONE": expected}, [])
    assert names_of(tmp_path, "one") == {"one": expected.name}
    write_jobs(tmp_path / "jobs.json", protein_job("one"))
    assert jobs_of(tmp_path, components) == (["one"], {"one": expected}, [])


def test_what_cannot_be_read_stops_nothing_else(tmp_path, components):
    shutil.copy(DOMAIN, tmp_path / "good.pdb.gz")
    (tmp_path / "bad.cif").write_text("data_bad\n")
    (tmp_path / "jobs.fasta").write_text(f">fine\n{SEQUENCE}\n>odd\nM1\n")
    found, truths, rejected = jobs_of(tmp_path, components)
    assert found == ["fine", "good"] and list(truths) == ["good"]
    assert len(rejected) == 2
    assert "odd" in rejected[0] and "bad.cif" in rejected[1]


def test_structures_of_which_none_can_be_read_are_all_rejected(tmp_path, components):
    files(tmp_path, "a.cif", "b.pdb")
    found, truths, rejected = jobs_of(tmp_path, components)
    assert (found, truths, len(rejected)) == ([], {}, 2)


def test_where_there_is_nothing_it_says_so(tmp_path, components):
    with pytest.raises(InputError, match="expected a folder with"):
        read_jobs(files(tmp_path / "empty", "notes.txt"), components)
    with pytest.raises(InputError, match="no such file"):
        read_jobs(tmp_path / "nowhere.json", components)
    with pytest.raises(InputError, match="no such file"):
        read_jobs(tmp_path / "nowhere.cif", components)


def test_two_files_whose_names_become_one_are_not_two_jobs_of_one_name(tmp_path, components):
    """What of a file's name cannot be in that of a folder is replaced."""
    shutil.copy(DOMAIN, tmp_path / "a b.pdb.gz")
    shutil.copy(OTHER, tmp_path / "a_b.pdb.gz")
    found, truths, _ = jobs_of(tmp_path, components)
    assert len(set(found)) == len(found) == len(truths)


def test_hidden_files_are_no_entries(tmp_path, components):
    """As macOS leaves them beside files that came from it."""
    shutil.copy(DOMAIN, tmp_path / "one.pdb.gz")
    files(tmp_path, "._one.pdb.gz")
    assert jobs_of(tmp_path, components) == (["one"], {"one": tmp_path / "one.pdb.gz"}, [])


def test_structures_are_said_before_they_are_read(tmp_path, components):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for file in (DOMAIN, OTHER):
        shutil.copy(file, folder)
    alone, of_folder = Watch(), Watch()
    read_jobs(DOMAIN, components, alone)
    read_jobs(folder, components, of_folder)
    assert alone.heard == [str(DOMAIN), 1]
    assert of_folder.heard == [f"2 experimental structures of {folder}", 2]
