"""What ranks before what: impossible structures last, a single chain by its pTM."""

import csv
import math

from hypothesis import given
from hypothesis import strategies as st

from flashbias_fold.predict.folder import SUMMARY, OutputFolder
from flashbias_fold.predict.ranking import best_sample, describe_implausible, rank_between_jobs


def sample(ranking_score=0.5, *, ptm=0.5, iptm=None, plausible=True, **fields):
    problems = [] if plausible else ["chain A: 3 breaks of the backbone", "chain A: 9 bonds torn"]
    scores = {"ptm": ptm, "iptm": iptm, "ranking_score": ranking_score}
    return {**scores, "plausible": plausible, "problems": problems, "seed": 101, "sample": 0, **fields}


SAMPLES = st.builds(
    sample,
    st.floats(-100, 1),
    ptm=st.floats(0, 1),
    iptm=st.none() | st.floats(0, 1),
    plausible=st.booleans(),
)


@given(st.lists(SAMPLES, min_size=1))
def test_a_plausible_sample_comes_before_every_implausible_one(samples):
    ordered = sorted(samples, key=rank_between_jobs, reverse=True)
    flags = [one["plausible"] for one in ordered]
    assert flags == sorted(flags, reverse=True)
    best = best_sample(samples)
    assert best["plausible"] == any(flags)
    rivals = [one for one in samples if one["plausible"] == best["plausible"]]
    assert best["ranking_score"] == max(one["ranking_score"] for one in rivals)


def test_a_single_chain_counts_by_its_ptm():
    monomer, junk = sample(0.18, ptm=0.9), sample(0.3, ptm=0.3, iptm=0.3)
    assert rank_between_jobs(monomer) > rank_between_jobs(junk)
    assert rank_between_jobs(sample(0.95, ptm=0.9, iptm=0.97)) > rank_between_jobs(monomer)


def test_a_score_that_is_none_or_of_an_earlier_version():
    assert (
        rank_between_jobs(sample(math.nan, iptm=0.5))[1]
        == rank_between_jobs(sample(ptm=None))[1]
        == -math.inf
    )
    earlier = {"ranking_score": 0.4, "ptm": 0.5, "iptm": 0.4}
    assert rank_between_jobs(earlier) > rank_between_jobs(sample(0.9, iptm=0.9, plausible=False))


def test_the_line_on_implausible_samples():
    assert describe_implausible({"name": "x", "samples": [sample()]}) is None
    samples = [sample(), sample(plausible=False, sample=1), sample(plausible=False, sample=2)]
    assert describe_implausible({"name": "x", "samples": samples}) == (
        "warning: job 'x': 2 of 3 structures are not plausible, such as sample 1 of seed 101: "
        "chain A: 3 breaks of the backbone"
    )


def test_the_summary_of_a_campaign_is_in_that_order(tmp_path):
    samples = {
        "junk": sample(0.9, iptm=0.9, plausible=False),
        "complex": sample(0.3, iptm=0.3),
        "monomer": sample(0.12, ptm=0.6),
    }
    folder = OutputFolder(tmp_path)
    for name, one in samples.items():
        folder.note({"name": name, "samples": [{**one, "cif": "x.cif"}]})
    folder.write_summary(best_first=True)
    with (tmp_path / SUMMARY).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["monomer", "complex", "junk"]
    assert [row["iptm"] for row in rows] == ["", "0.3", "0.9"]
    assert [row["plausible"] for row in rows] == ["True", "True", "False"]
    assert rows[-1]["problems"] == "chain A: 3 breaks of the backbone; chain A: 9 bonds torn"
