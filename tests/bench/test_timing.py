"""Statistics of times, and turns that are taken fairly. No time itself is asserted."""

import statistics

import pytest
import torch

from flashbias_fold.bench.timing import WARM_UP, Spread, Step, interleave, peak_bytes, spread

CPU = torch.device("cpu")


def no_failure(name, error):
    raise AssertionError((name, error))


def test_the_spread_holds_eight_in_ten():
    times = [float(number) for number in range(101)]
    assert spread(times[::-1]) == Spread(50.0, 10.0, 90.0)


@pytest.mark.parametrize("times", [[3.0], [3.0, 3.0], [1.0, 2.0], [5.0, 1.0, 9.0]])
def test_few_times_have_a_spread_within_them(times):
    found = spread(times)
    assert found.median == statistics.median(times)
    assert min(times) <= found.p10 <= found.median <= found.p90 <= max(times)


def test_every_round_is_a_call_of_each_in_changing_order():
    calls, ticks = [], []
    steps = {name: Step(lambda: None, lambda _, name=name: calls.append(name)) for name in "abc"}
    times = interleave(steps, 9, CPU, failed=no_failure, tick=lambda done, total: ticks.append((done, total)))
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == WARM_UP + 9
    assert all(sorted(each) == list("abc") for each in rounds)
    assert len(set(rounds)) > 2
    assert {name: len(found) for name, found in times.items()} == {"a": 9, "b": 9, "c": 9}
    assert ticks == [(number, WARM_UP + 9) for number in range(1, WARM_UP + 10)]


def test_what_comes_before_is_done_each_time_and_handed_on():
    given, got = iter(range(100)), []
    interleave({"a": Step(lambda: next(given), got.append)}, 3, CPU, failed=no_failure, tick=lambda *_: None)
    assert got == list(range(WARM_UP + 3))


def test_one_that_fails_is_left_out_and_the_others_go_on():
    failures, calls = [], iter(range(100))

    def third_time(_):
        if next(calls) == 3:
            raise RuntimeError("no more")

    steps = {"good": Step(lambda: None, lambda _: None), "bad": Step(lambda: None, third_time)}
    times = interleave(
        steps, 4, CPU, failed=lambda name, error: failures.append((name, str(error))), tick=lambda *_: None
    )
    assert failures == [("bad", "no more")]
    assert (list(times), len(times["good"])) == (["good"], 4)


def test_an_interruption_is_not_taken_for_a_failure():
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave({"a": Step(lambda: None, interrupt)}, 1, CPU, failed=no_failure, tick=lambda *_: None)


def test_nobody_counts_the_memory_of_a_cpu():
    assert peak_bytes(Step(lambda: None, no_failure), CPU) is None
