"""Which job is next: against the plainest way to say it, over every order of what workers do."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flashbias_fold.campaign.queue import MOST_ATTEMPTS, Pace, Queue, Task, estimated_cost

TASKS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20).map(
    lambda pairs: [Task(f"job{place}", float(cost), needed) for place, (cost, needed) in enumerate(pairs)]
)


class AgainstThePlainWay(RuleBasedStateMachine):
    """The model is a dictionary of what is pending, looked through every time."""

    @initialize(tasks=TASKS)
    def begin(self, tasks):
        self.queue = Queue(tasks)
        self.all = {task.name: task for task in tasks}
        self.pending = dict(self.all)
        self.running, self.over, self.poison, self.large = set(), [], set(), set()
        self.deaths = dict.fromkeys(self.all, 0)

    @rule(room=st.integers(-1, 7))
    def take(self, room):
        fitting = [task for task in self.pending.values() if task.needed <= room]
        name = self.queue.take(room)
        if not fitting:
            assert name is None
            return
        assert self.pending[name].cost == max(task.cost for task in fitting)
        assert self.pending.pop(name).needed <= room
        self.running.add(name)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.finish(name)
        self.running.remove(name)
        self.over.append(name)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def die(self, data):
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.deaths[name] += 1
        again = self.queue.give_back(name)
        self.running.remove(name)
        assert again == (self.deaths[name] < MOST_ATTEMPTS)
        if again:
            self.pending[name] = self.all[name]
        else:
            self.poison.add(name)

    @rule(room=st.integers(-1, 7))
    def set_aside(self, room):
        expected = {name for name, task in self.pending.items() if task.needed > room}
        assert {task.name for task in self.queue.too_large(room)} == expected
        self.large |= expected
        for name in expected:
            del self.pending[name]

    @invariant()
    def the_counts_agree(self):
        if not hasattr(self, "queue"):
            return
        assert self.queue.pending == len(self.pending)
        assert self.queue.running == len(self.running)
        assert bool(self.queue) == bool(self.pending or self.running)
        assert self.queue.cost_pending == pytest.approx(sum(task.cost for task in self.pending.values()))
        assert len(set(self.over)) == len(self.over)
        every = [*self.pending, *self.running, *self.over, *self.poison, *self.large]
        assert sorted(every) == sorted(self.all)


TestAgainstThePlainWay = AgainstThePlainWay.TestCase
TestAgainstThePlainWay.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(TASKS, st.lists(st.integers(0, 6), min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_workers_that_die_now_and_then_get_everything_done_that_fits(tasks, rooms, data):
    """Each job is done once, or has killed as many workers as it may; none is left but what fits nobody."""
    queue, busy, done, poison = Queue(tasks), {}, [], []
    for _ in range(10 * MOST_ATTEMPTS * (len(tasks) + 1)):
        for worker, room in enumerate(rooms):
            if worker not in busy and (name := queue.take(room)):
                busy[worker] = name
        if not busy:
            break
        worker = data.draw(st.sampled_from(sorted(busy)))
        name = busy.pop(worker)
        if data.draw(st.booleans()):
            queue.finish(name)
            done.append(name)
        elif not queue.give_back(name):
            poison.append(name)
    unfit = {task.name for task in queue.too_large(max(rooms))}
    assert unfit == {task.name for task in tasks if task.needed > max(rooms)}
    assert sorted([*done, *poison, *unfit]) == sorted(task.name for task in tasks)
    assert all(queue.deaths(name) == MOST_ATTEMPTS for name in poison)
    assert not queue


def test_the_longest_comes_first_and_of_equal_ones_either():
    queue = Queue([Task("short", 1, 1), Task("long", 3, 9), Task("middle", 2, 1)])
    assert [queue.take(5), queue.take(5), queue.take(5), queue.take(9)] == ["middle", "short", None, "long"]


def test_two_jobs_of_one_name_are_a_mistake():
    with pytest.raises(ValueError, match="same name"):
        Queue([Task("one", 1, 1), Task("one", 2, 1)])


def test_ten_thousand_jobs_are_no_work():
    count = 10_000
    queue = Queue([Task(f"job{number}", number * 7919 % 10007, number % 97) for number in range(count)])
    start = time.perf_counter()
    while (name := queue.take(97)) is not None:
        queue.finish(name)
    assert (time.perf_counter() - start) / count < 1e-3  # of jobs that take ten seconds


@pytest.mark.parametrize("of", ["n_token", "seeds", "samples", "steps", "cycles"])
def test_more_costs_more(of):
    size = {"n_token": 100, "seeds": 1, "samples": 5, "steps": 200, "cycles": 10}
    assert estimated_cost(**size | {of: 2 * size[of]}) > estimated_cost(**size)


def test_the_pace_is_that_of_what_was_measured():
    pace = Pace()
    assert pace.per_hour(10) is None and pace.remaining_s(5, 2) is None
    pace.over = 2
    pace.note(cost=1, seconds=10)
    pace.note(cost=3, seconds=30)
    assert pace.per_hour(40) == 180
    assert pace.remaining_s(cost=4, workers=2) == 20
    assert pace.remaining_s(cost=4, workers=0) is None
