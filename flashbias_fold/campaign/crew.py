"""The workers of a campaign: where they are, what they do, and others in the place of those that die."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flashbias_fold.campaign.worker import Assignment, Description, Worker
from flashbias_fold.errors import SetupError
from flashbias_fold.inputs import Job
from flashbias_fold.predict.account import now

# A worker that dies so often in a row before it has the model is not started again.
MOST_STARTS = 3
_CORES_EACH = 4  # of a CPU, for a worker, where nobody says otherwise
_LOOK_S = 5.0
# A GPU that has no room says so in time, and then smaller chunks are tried; see `that_fit`. That is for jobs
# that fit no other one either: of two GPUs of the same kind one may have a little less.
_GPU_ALLOWANCE = 2
_AS_LARGE = 0.95


@dataclass(eq=False)
class Member:
    """A worker's place: a GPU, or a share of a CPU.

    Attributes:
        id: Its number.
        node: The name of its machine.
        node_id: The same for Ray.
        cores: How many the worker may use.
        share: Its part of the machine's memory.
        on_gpu: Whether it has one.
        state: `starting`, `idle`, `running` or `lost`.
        job: What it does.
        since: The state's beginning.
        done: How many jobs it has finished.
        died: How often in a row workers have died here before they had the model.
        description: Of the worker; while another one starts, of the last.
    """

    id: int
    node: str
    node_id: str
    cores: int
    share: float
    on_gpu: bool
    state: str = "lost"
    job: str | None = None
    since: str = field(default_factory=now)
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    died: int = 0
    description: Description | None = None
    actor: Any = None

    @property
    def memory(self) -> int | None:
        """Bytes for a job, None before that is known."""
        return None if self.description is None else self.description.memory

    def enter(self, state: str, job: str | None = None) -> None:
        """Another state begins."""
        self.state, self.job, self.since, self.began = state, job, now(), time.monotonic()

    def as_dict(self) -> dict[str, Any]:
        """For `run.json`."""
        device = self.description.device if self.description else ("cuda" if self.on_gpu else "cpu")
        return {
            "id": self.id,
            "node": self.node,
            "device": device,
            "state": self.state,
            "job": self.job,
            "since": self.since,
            "done": self.done,
            "pid": self.description.pid if self.description and self.state != "lost" else None,
        }


@dataclass(frozen=True)
class Event:
    """What a worker answered, or how it died instead."""

    member: Member
    answer: Any = None
    death: str | None = None


class Crew:
    """The workers on the cluster that Ray is connected to.

    Args:
        device: `cpu`, `cuda`, or `auto`: GPUs where any node has one.
        dtype: The arithmetic that is asked for.
        devices: How many workers on each machine; by default every GPU, or one for every four cores.
        threads: How many a worker has at most; by default its share of the cores.
        variables: Of the environment, what workers need.
        tell: Told, once for each size, of machines that have less than `devices`.
    """

    def __init__(
        self,
        device: str,
        dtype: str,
        devices: int | None,
        threads: int | None,
        variables: Mapping[str, str],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.members: list[Member] = []
        self.deaths = 0
        self._dtype = dtype
        self._devices = devices
        self._threads = threads
        self._variables = dict(variables)
        self._tell = tell
        self._told: set[int] = set()
        self._nodes: set[str] = set()
        self._waiting: dict[Any, Member] = {}
        self._looked = time.monotonic()
        nodes = _living_nodes()
        gpus = any(_count(node, "GPU") for node in nodes)
        if device == "cuda" and not gpus:
            raise SetupError("--device cuda: the Ray cluster has no GPU")
        self.device = ("cuda" if gpus else "cpu") if device == "auto" else device
        self._admit(nodes)

    @property
    def nodes(self) -> int:
        """How many machines take part."""
        return len({member.node_id for member in self.members if member.node_id in self._nodes})

    @property
    def living(self) -> list[Member]:
        """The workers that are there, or will be."""
        return [member for member in self.members if member.state != "lost"]

    def rooms(self) -> dict[int, int | None]:
        """How much memory a job may need by the estimate, by worker; None before that is known."""
        known = [member.memory for member in self.living if member.memory is not None]
        return {
            member.id: None if member.memory is None else _room(member, max(known)) for member in self.living
        }

    def look(self) -> None:
        """Welcome nodes that have joined, and give up those that have gone; now and then."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._admit(_living_nodes())

    def load(self, member: Member, assignment: Assignment) -> None:
        """Have a worker load the model."""
        self._ask(member, member.actor.load.remote(assignment))

    def give(self, member: Member, job: Job, attempt: int) -> None:
        """Have a worker do a job."""
        member.enter("running", job.name)
        self._ask(member, member.actor.do.remote(job, attempt))

    def replace(self, member: Member) -> bool:
        """Start another worker in the place of one that died; not on a node that has gone, nor for ever."""
        if member.died >= MOST_STARTS or member.node_id not in self._nodes:
            return False
        self._start(member)
        return True

    def dismiss(self, member: Member) -> None:
        """Do without a worker."""
        import ray

        self._waiting = {future: other for future, other in self._waiting.items() if other is not member}
        if member.actor is not None:
            ray.kill(member.actor, no_restart=True)
        member.actor = None
        member.enter("lost")

    def disband(self) -> None:
        """End all workers: the campaign is over."""
        for member in self.living:
            self.dismiss(member)
            member.enter("idle")

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened, as soon as anything has, or after a time."""
        import ray

        if not self._waiting:
            time.sleep(timeout_s)
            return []
        ready, others = ray.wait(list(self._waiting), num_returns=1, timeout=timeout_s)
        if ready and others:
            ready += ray.wait(others, num_returns=len(others), timeout=0)[0]
        return [self._event(future) for future in ready]

    def _event(self, future: Any) -> Event:
        import ray
        from ray.exceptions import RayError, RayTaskError

        member = self._waiting.pop(future)
        try:
            return Event(member, answer=ray.get(future))
        except RayTaskError as error:  # raised by our own code, where it should not
            return Event(member, answer=error)
        except RayError as error:
            self.deaths += 1
            if member.state == "starting":
                member.died += 1
            self._admit(_living_nodes())
            gone = member.node_id not in self._nodes
            # It may be there and only out of reach; where it is, no other must be started beside it.
            ray.kill(member.actor, no_restart=True)
            member.actor = None
            return Event(member, death=f"its node {member.node} was lost" if gone else _cause(error))

    def _ask(self, member: Member, future: Any) -> None:
        self._waiting[future] = member

    def _admit(self, nodes: list[dict[str, Any]]) -> None:
        self._nodes = {node["NodeID"] for node in nodes}
        known = {member.node_id for member in self.members}
        for node in nodes:
            if node["NodeID"] in known:
                continue
            for member in self._places(node):
                self.members.append(member)
                self._start(member)

    def _places(self, node: Mapping[str, Any]) -> list[Member]:
        cores, gpus = _count(node, "CPU"), _count(node, "GPU")
        on_gpu = self.device == "cuda"
        there = gpus if on_gpu else cores
        asked = self._devices or (gpus if on_gpu else max(1, cores // _CORES_EACH))
        count = min(there, asked)
        if self._devices and asked > there and there not in self._told:
            self._told.add(there)
            kind = ("GPU" if on_gpu else "core") + ("" if there == 1 else "s")
            self._tell(
                f"--devices {asked}: {node['NodeManagerHostname']} has {there} {kind}, "
                f"so {count} {'worker runs' if count == 1 else 'workers run'} there"
            )
        sharing = gpus if on_gpu else count
        return [
            Member(
                id=len(self.members) + number,
                node=node["NodeManagerHostname"],
                node_id=node["NodeID"],
                cores=max(1, cores // sharing),
                share=1 / count,
                on_gpu=on_gpu,
            )
            for number in range(count)
        ]

    def _start(self, member: Member) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = ray.remote(Worker).options(
            num_cpus=0 if member.on_gpu else member.cores,
            num_gpus=1 if member.on_gpu else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(member.node_id, soft=False),
        )
        threads = min(member.cores, self._threads or member.cores)
        member.actor = actor.remote(threads, member.share, self._variables)
        member.enter("starting")
        self._ask(member, member.actor.describe.remote(self.device, self._dtype))


def _room(member: Member, largest: int) -> int:
    memory = member.memory or 0
    return memory * (_GPU_ALLOWANCE if member.on_gpu and memory >= _AS_LARGE * largest else 1)


def _living_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _count(node: Mapping[str, Any], resource: str) -> int:
    return int(node["Resources"].get(resource, 0))


def _cause(error: Exception) -> str:
    """How a worker died, in few words: Ray's are a page."""
    from ray.exceptions import ActorUnavailableError, OutOfMemoryError

    text = str(error)
    if isinstance(error, OutOfMemoryError):
        return "its machine was running out of memory"
    if isinstance(error, ActorUnavailableError):
        return "its machine is out of reach"
    if "_actor_init_failed" in vars(error) and vars(error)["_actor_init_failed"]:
        return f"it could not begin: {text.strip().splitlines()[-1]}"
    status = re.search(r"exit code (\d+)", text)
    if status:
        return f"its process ended with status {status[1]}"
    if "connection error code" in text:
        return "its process was killed (by the system, if memory ran out) or crashed"
    return " ".join(text.split())[:200]
