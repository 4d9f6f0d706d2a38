"""The page of a campaign: complete, small however many jobs there were, safe whatever they are called."""

from __future__ import annotations

import copy
import html
import math
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from campaign_made_up import REASON, name_of, report, reports, run

from flashbias_fold.campaign.chart import MOST_MARKS, Point, time_by_length
from flashbias_fold.campaign.page import MOST_BEST, page
from flashbias_fold.report.charts import STAGES

sys.path.append(str(Path(__file__).parents[1] / "report"))
from report_browser import PROGRAM, Browser, browser
from report_made_up import HOSTILE

EMPTY = {"status": "running", "jobs": {}}


def plain(content: str) -> str:
    """The words of a page, without its elements."""
    body = re.sub(r"<(style|script|title)[^>]*>.*?</\1>", " ", content, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).split())


def section(content: str, title: str) -> str:
    """What is below a heading."""
    return content[content.index(f"<h2>{title}</h2>") :].partition("</section>")[0]


def cells(row: str) -> list[str]:
    return [plain(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]


def rows(content: str, title: str) -> list[list[str]]:
    """The rows of a section's table."""
    body = section(content, title).partition("<tbody>")[2].partition("</tbody>")[0]
    return [cells(row) for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL)]


def marks(content: str) -> list[tuple[str, str]]:
    """Class and words of each mark of the chart."""
    return re.findall(r'<circle class="point ([\w-]+)"[^>]*><title>(.*?)</title>', content)


# Counts and pace


def test_what_became_of_the_jobs_is_counted():
    told = plain(page(run(6, skipped=1, failed=3, pending=2), reports(7)))
    assert "7 of 13 targets complete" in told
    for words in ("6 done", "1 complete before", "3 failed", "2 pending", "1 not accepted"):
        assert words in told
    assert "0 running" not in told


def test_the_pace_is_that_of_the_jobs_that_were_done_now():
    found = run(4, skipped=3, failed=0)
    told = plain(page(found, reports(7)))
    made = [report(index) for index in range(4)]
    tokens = 3600 * sum(one["n_token"] for one in made) / found["campaign"]["elapsed_s"]
    assert "1,234jobs per hour" in told
    assert f"tokens per hour{tokens:,.0f}" in told
    assert "structures8" in told
    assert "elapsed2.5 h" in told


@pytest.mark.parametrize(
    ("status", "words"),
    [("running", "still running"), ("interrupted", "interrupted"), ("failed", "stopped at an error")],
)
def test_a_campaign_that_is_not_over_says_so(status, words):
    told = plain(page(run(2, pending=60, status=status), reports(3)))
    assert words in told
    assert ("left, about60.0 min" in told) == (status == "running")


def test_a_local_run_has_a_page_too():
    found = run()
    del found["campaign"], found["engine"]
    told = plain(page(found, reports(7)))
    assert "2.4jobs per hour" in told, "6 in 2.5 hours"
    assert "One process, on NVIDIA H200." in told
    assert "see its error.json" in told


@pytest.mark.parametrize("found", [EMPTY, {}, run(0, skipped=0, failed=0)])
def test_an_empty_campaign_is_a_page(found):
    told = plain(page(found, []))
    assert f"0 of {len(found.get('rejected', []))} targets complete" in told
    assert "No structure is complete." in told
    assert "None" not in told.replace("None.", "")


# Failures


def test_failures_are_grouped_by_their_reason():
    content = page(run(0, skipped=0, failed=7), [])
    why = rows(content, "What failed, and why")
    assert [(kind, count) for _, kind, count, _ in why] == [("poison", "4"), ("memory", "3"), ("input", "1")]
    assert why[0][0] == "its worker died 3 times, the last time by signal 9"
    assert why[1][0] == REASON.format("\N{HORIZONTAL ELLIPSIS}", "\N{HORIZONTAL ELLIPSIS}").replace(
        "139", "\N{HORIZONTAL ELLIPSIS}"
    )
    assert why[1][3] == ", ".join(name_of(index) for index in (1, 3, 5))
    assert why[2][0] == "sequences[0]: expected letters", "the file and the job are told by the name"


def test_a_reason_that_one_job_has_keeps_its_numbers():
    found = run(0, skipped=0, failed=2)
    assert rows(page(found, []), "What failed, and why")[1][0] == REASON.format(9001, 301)


def test_a_refused_job_without_a_name_and_one_that_is_noted_twice_count_once():
    found = run(0, skipped=0, failed=0)
    found["rejected"].append({"name": None, "error": "targets/x.json: name: expected one"})
    found["jobs"]["bad"] = "failed"
    found["campaign"]["failures"]["bad"] = {"kind": "input", "error": "expected letters"}
    why = rows(page(found, []), "What failed, and why")
    assert sorted((kind, names) for _, kind, _, names in why) == [
        ("input", "bad"),
        ("input", "without a name"),
    ]


def test_nothing_is_said_of_failures_where_there_are_none():
    found = run(2, failed=0) | {"rejected": []}
    assert "What failed" not in page(found, reports(3))


# Structures


def test_the_best_structures_come_first_and_link_to_their_files():
    content = page(run(60), reports(60))
    best = rows(content, "Best structures")
    assert len(best) == MOST_BEST
    scores = {one["name"]: one["samples"][0]["ranking_score"] for one in reports(60)}
    assert [row[0] for row in best] == sorted(scores, key=scores.__getitem__, reverse=True)[:MOST_BEST]
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', section(content, "Best structures"))
    assert links[0] == (
        f"./{best[0][0]}/seed_101/predictions/{best[0][0]}_sample_0.cif",
        f"{best[0][0]}_sample_0.cif",
    )
    assert "The 50 best of 60 jobs" in plain(content)


def test_what_is_not_plausible_comes_last_with_a_mark_and_a_single_chain_counts_by_its_ptm():
    found = reports(3)
    scores = {"ptm": 0.4, "iptm": 0.4, "ranking_score": 0.4}
    for one, more in zip(
        found,
        (
            {"ptm": 0.9, "iptm": 0.9, "ranking_score": 0.9, "plausible": False, "problems": ["<b>1 break"]},
            {"ptm": 0.6, "iptm": None, "ranking_score": 0.12, "plausible": True, "problems": []},
            {"plausible": True, "problems": []},
        ),
        strict=True,
    ):
        one["samples"] = [{**one["samples"][0], **scores, **more}]
    content = page(run(3), found)
    best = rows(content, "Best structures")
    assert [row[0] for row in best] == [name_of(1), name_of(2), f"{name_of(0)} not plausible"]
    assert best[0][4] == "\N{EN DASH}"
    assert 'title="&lt;b&gt;1 break"' in content


@pytest.mark.parametrize("score", [math.nan, None, -math.inf])
def test_a_score_that_is_no_number_comes_last(score):
    found = reports(3)
    for sample in found[0]["samples"]:
        sample["ranking_score"] = score
    best = rows(page(run(3), found), "Best structures")
    assert best[-1][0] == name_of(0)
    assert best[-1][2] == "\N{EN DASH}"


def test_links_lead_to_files_whatever_they_are_called(tmp_path):
    label = " a:b#c?d%20&'\"<é>"
    content = page(run(1, label=label), [report(0, label)])
    (link,) = re.findall(r'<a href="([^"]+)">', content)
    assert link.startswith("./")
    path = unquote(html.unescape(link).removeprefix("./"))
    assert path == f"{name_of(0, label)}/{report(0, label)['samples'][0]['cif']}"
    assert not set("#?: ") & set(html.unescape(link))


# Time


def test_each_job_is_a_mark_in_the_colour_of_its_device():
    content = page(run(40), reports(40))
    found = marks(content)
    assert len(found) == 40
    assert {style for style, _ in found} == {"method-0", "method-1"}
    first = report(0)
    assert any(words.startswith(f"{name_of(0)}: {first['n_token']} tokens, ") for _, words in found)
    legend = plain(section(content, "Time by length"))
    assert "NVIDIA H200: 20" in legend
    assert "NVIDIA A100-SXM4-80GB: 20" in legend


def test_many_devices_share_what_colours_there_are():
    devices = tuple(f"device {letter}" for letter in "abcdefghij")
    content = page(run(30), reports(30, devices=devices))
    assert len({style for style, _ in marks(content)}) == 8
    assert "other devices: 9" in plain(content)


@pytest.mark.parametrize("count", [1, 2, MOST_MARKS, MOST_MARKS + 1, 6000])
def test_many_marks_are_drawn_together_and_none_is_forgotten(count):
    rng = random.Random(count)
    points = [Point(f"j{i}", rng.randint(1, 3000), rng.uniform(0.01, 5000)) for i in range(count)]
    chart = time_by_length([("method-0", points[::2]), ("method-1", points[1::2])])
    found = marks(chart)
    assert len(found) <= MOST_MARKS
    assert (len(found) == count) == (count <= MOST_MARKS)
    of_many = [re.match(r"(\d+) jobs, on average: ", words) for _, words in found]
    assert sum(int(one[1]) if one else 1 for one in of_many) == count
    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', chart):
        assert 58 < float(x) < 778
        assert 10 < float(y) < 330


@pytest.mark.parametrize(("tokens", "taken"), [((64, 64), (3.0, 3.0)), ((1, 100_000), (1e-3, 1e6))])
def test_axes_have_a_few_round_ticks(tokens, taken):
    chart = time_by_length([("method-0", [Point("a", tokens[0], taken[0]), Point("b", tokens[1], taken[1])])])
    ticks = re.findall(r'<text class="tick( end)?"[^>]*>([^<]+)<', chart)
    for end in ("", " end"):
        count = sum(kind == end for kind, _ in ticks)
        assert 1 <= count <= 10
    assert "nan" not in chart


def test_stages_are_shares_by_length():
    found = [report(index) for index in range(50)]
    told = section(page(run(50), found), "Where the time went")
    sums = {stage: sum(one["stages_s"][stage] for one in found) for stage in STAGES}
    whole = plain(told)
    for stage in STAGES:
        assert f"{stage} {100 * sums[stage] / sum(sums.values()):.0f} %" in whole
    classes = {2 ** (one["n_token"] - 1).bit_length() for one in found}
    assert re.findall(r"up to (\d+) tokens", whole) == [str(size) for size in sorted(classes)]
    for row in told.split('<div class="times-row">')[1:]:
        widths = [float(width) for width in re.findall(r'width="([\d.]+)%"', row)]
        assert sum(widths) == pytest.approx(100, abs=0.01)


def test_what_took_no_time_or_an_impossible_one_is_left_out_of_the_chart():
    found = reports(4)
    found[0]["wall_s"], found[1]["wall_s"], found[2]["n_token"] = math.nan, 0.0, 0
    assert len(marks(page(run(4), found))) == 1


# What ran


def test_what_ran_is_told():
    told = plain(section(page(run(), reports(7)), "How this was made"))
    for words in (
        "flashbias-fold predict targets --out preds --engine ray",
        "checkpoint /weights/checkpoint/model.pt",
        "rules 1",
        "seeds [101]",
        "nodes 2",
        "flashbias-fold 0.1.0",
    ):
        assert words in told
    assert "triton" not in told
    assert "overwrite" not in told


def test_workers_are_counted_by_device_and_those_lost_are_told():
    content = page(run(), reports(7))
    assert "2 on NVIDIA H200, 2 on NVIDIA A100-SXM4-80GB; lost on the way: 1." in plain(content)
    assert rows(content, "Workers")[3] == ["3", "gpu1", "NVIDIA A100-SXM4-80GB", "lost", "3"]


def test_a_demonstration_says_so():
    found = run()
    assert "not for science" not in page(found, [])
    found["model"] |= {"name": "demo", "demo_model": True}
    assert "not for science" in page(found, [])


# The file


def test_ten_thousand_jobs_make_a_page_that_opens():
    found = run(9000, skipped=1000, failed=4000, pending=500, status="running")
    for place, (job, one) in enumerate(found["campaign"]["failures"].items()):
        if place % 3 == 0:  # reasons of which hardly two are alike
            one["error"] = f"{job[::-1]} " + "abcdefghij"[place % 10] * (place % 97) + " is wrong " * 100
    content = page(found, reports(10_000))
    assert len(content) < 700_000
    assert "more reasons" in plain(content)
    assert "The 50 best of 10,000 jobs" in plain(content)


def test_it_depends_on_the_content_alone_and_not_on_its_order():
    found = reports(3000)
    content = page(run(3000), found)
    assert page(copy.deepcopy(run(3000)), found[::-1]) == content


def test_hostile_names_are_text():
    content = page(run(label=HOSTILE), reports(7, HOSTILE))
    assert content.count("<script") == content.count("</script") == 2
    assert "<!--" not in content.partition("<script")[0]
    printable = HOSTILE.replace("\ud800", "\ufffd").replace("\x00", "\ufffd")
    assert html.escape(f"{name_of(0)}{printable}") in content
    assert "$policy" not in content
    content.encode()


def test_it_asks_for_nothing():
    content = page(run(), reports(7))
    assert "default-src 'none'" in content
    assert "unsafe" not in content
    assert not re.search(r"https?:|url\(|@import|\bsrc=", content)
    assert set(re.findall(r'href="(.)', content)) == {"."}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.skipif(PROGRAM is None, reason="no chromium, chromium-browser or google-chrome on PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_quietly_and_sorts_it(tab, tmp_path, width):
    path = tmp_path / "campaign.html"
    path.write_text(page(run(200, label=HOSTILE), reports(200, HOSTILE)), encoding="utf-8")
    tab.open(path, width=width)
    assert tab.complaints() == []
    assert tab.requests() == [path.as_uri()]
    assert tab.run("document.documentElement.scrollWidth") == width
    column = "[...document.querySelectorAll('.best tbody tr')].map((row) => Number(row.cells[1].innerText))"
    before = tab.run(column)
    tab.run("document.querySelectorAll('.best th button')[1].click()")
    assert before != sorted(before) == tab.run(column)
