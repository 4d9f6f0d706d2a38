"""Which job is done next, how often it is tried again, and how long all of them will take."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

MOST_ATTEMPTS = 3

# Seconds, roughly: only their proportions count, since what jobs really take corrects them all together. What
# a job costs whatever its size, its trunk for each cycle, and its diffusion for each step and sample.
_EACH_SEED_S = 0.5
_CYCLE_PAIR_S, _CYCLE_TRIANGLE_S = 1e-6, 5e-10
_STEP_TOKEN_S, _STEP_PAIR_S = 4e-6, 1e-8


def estimated_cost(*, n_token: int, seeds: int, samples: int, steps: int, cycles: int) -> float:
    """What a job costs in comparison with others, from its size."""
    trunk = cycles * (_CYCLE_PAIR_S * n_token**2 + _CYCLE_TRIANGLE_S * n_token**3)
    diffusion = samples * steps * (_STEP_TOKEN_S * n_token + _STEP_PAIR_S * n_token**2)
    return seeds * (_EACH_SEED_S + trunk + diffusion)


@dataclass(frozen=True)
class Task:
    """A job, as the queue sees it.

    Attributes:
        name: The job's.
        cost: In comparison with others.
        needed: Bytes of memory.
    """

    name: str
    cost: float
    needed: int


class Queue:
    """Jobs that are to be done: longest first, to whoever has the memory.

    Every call takes a time that grows with the logarithm of the number of jobs, `too_large` apart.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        # By memory, so that what fits is a beginning of the list; a tree over it knows each part's longest.
        self._tasks = sorted(tasks, key=lambda task: task.needed)
        self._place = {task.name: place for place, task in enumerate(self._tasks)}
        if len(self._place) != len(self._tasks):
            raise ValueError("two jobs have the same name")
        self._needed = [task.needed for task in self._tasks]
        self._leaves = 1 << max(0, len(self._tasks) - 1).bit_length()
        self._longest: list[int | None] = [None] * (2 * self._leaves)
        self._running: set[str] = set()
        self._deaths: dict[str, int] = {}
        self.pending = 0
        self.cost_pending = 0.0
        for task in self._tasks:
            self._put(task.name)

    def __bool__(self) -> bool:
        """Whether any job is not over."""
        return self.pending > 0 or bool(self._running)

    @property
    def running(self) -> int:
        """How many jobs are with a worker."""
        return len(self._running)

    def task(self, name: str) -> Task:
        """The job of a name."""
        return self._tasks[self._place[name]]

    def deaths(self, name: str) -> int:
        """How many workers have died of a job, or with it."""
        return self._deaths.get(name, 0)

    def take(self, room: int) -> str | None:
        """The longest job that fits so much memory, for a worker; None if none does."""
        place = self._longest_of_first(bisect_right(self._needed, room))
        if place is None:
            return None
        self._remove(place)
        name = self._tasks[place].name
        self._running.add(name)
        return name

    def finish(self, name: str) -> None:
        """A worker's job is over, one way or the other."""
        self._running.remove(name)

    def give_back(self, name: str) -> bool:
        """A worker has died with its job; whether the job will be tried again, as it is not for ever."""
        self._running.remove(name)
        self._deaths[name] = self.deaths(name) + 1
        if self._deaths[name] >= MOST_ATTEMPTS:
            return False
        self._put(name)
        return True

    def too_large(self, room: int) -> list[Task]:
        """Take out the pending jobs that need more memory than this; who asks knows that nobody has more."""
        found = []
        for place in range(bisect_right(self._needed, room), len(self._tasks)):
            if self._longest[self._leaves + place] is not None:
                self._remove(place)
                found.append(self._tasks[place])
        return found

    def _put(self, name: str) -> None:
        place = self._place[name]
        self.pending += 1
        self.cost_pending += self._tasks[place].cost
        self._set(place, place)

    def _remove(self, place: int) -> None:
        self.pending -= 1
        self.cost_pending = self.cost_pending - self._tasks[place].cost if self.pending else 0.0
        self._set(place, None)

    def _set(self, place: int, value: int | None) -> None:
        node = self._leaves + place
        self._longest[node] = value
        while node > 1:
            node //= 2
            self._longest[node] = self._longer(self._longest[2 * node], self._longest[2 * node + 1])

    def _longest_of_first(self, count: int) -> int | None:
        """The place of the longest of so many jobs from the beginning."""
        best: int | None = None
        low, high = self._leaves, self._leaves + count
        while low < high:
            if low % 2:
                best = self._longer(best, self._longest[low])
                low += 1
            if high % 2:
                high -= 1
                best = self._longer(best, self._longest[high])
            low, high = low // 2, high // 2
        return best

    def _longer(self, one: int | None, other: int | None) -> int | None:
        if one is None or other is None:
            return other if one is None else one
        return other if self._tasks[other].cost > self._tasks[one].cost else one


class Pace:
    """How fast jobs are done, and when they will be.

    Attributes:
        over: How many are, one way or the other.
    """

    def __init__(self) -> None:
        self.over = 0
        self._cost = 0.0
        self._seconds = 0.0

    def note(self, cost: float, seconds: float) -> None:
        """A job of an estimated cost has taken a worker so many seconds."""
        self._cost += cost
        self._seconds += seconds

    def per_hour(self, elapsed_s: float) -> float | None:
        """Jobs in an hour, as it went so far; None before there is any."""
        return 3600 * self.over / elapsed_s if self.over and elapsed_s > 0 else None

    def remaining_s(self, cost: float, workers: int) -> float | None:
        """Seconds that so many workers need for jobs of this cost, None before any is over."""
        if not workers or not self._cost:
            return None
        return cost * self._seconds / self._cost / workers
