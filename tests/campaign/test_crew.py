"""Which worker has the memory for what; without Ray, whose nodes and actors are made up."""

import pytest

from flashbias_fold.campaign.crew import Crew, Member
from flashbias_fold.campaign.worker import Description

GIB = 2**30


def a_worker(number, gib, *, on_gpu=True, state="idle"):
    description = gib and Description("here", 1, "a GPU", int(gib * GIB), "torch", "bf16", "1")
    return Member(
        id=number, node="here", node_id="n", cores=1, share=1.0, on_gpu=on_gpu, state=state,
        description=description or None,
    )  # fmt: skip


def rooms(*members):
    crew = object.__new__(Crew)
    crew.members = list(members)
    return {number: room and room / GIB for number, room in crew.rooms().items()}


def test_smaller_chunks_are_counted_on_only_where_nobody_has_more():
    """A job that fits the larger GPU as it is goes there, and not to one that would have to try."""
    assert rooms(a_worker(0, 24), a_worker(1, 80), a_worker(2, 79.6)) == {
        0: 24,
        1: 160,
        2: pytest.approx(159.2),
    }
    assert rooms(a_worker(0, 24)) == {0: 48}


def test_a_cpu_takes_no_more_than_it_has():
    assert rooms(a_worker(0, 10, on_gpu=False), a_worker(1, 4, on_gpu=False)) == {0: 10, 1: 4}


def test_who_has_not_said_yet_has_no_room_and_who_is_lost_does_not_count():
    assert rooms(a_worker(0, 24), a_worker(1, None), a_worker(2, 80, state="lost")) == {0: 48, 1: None}


def test_more_devices_than_there_are_are_said_once():
    said = []
    crew = object.__new__(Crew)
    crew.members, crew.device = [], "cpu"
    crew._devices, crew._tell, crew._told = 64, said.append, set()
    for name in ("here", "there"):
        node = {"NodeID": name, "NodeManagerHostname": name, "Resources": {"CPU": 2.0}}
        assert [member.cores for member in crew._places(node)] == [1, 1]
    assert said == ["--devices 64: here has 2 cores, so 2 workers run there"]
    crew._devices = 2
    crew._told.clear()
    crew._places({"NodeID": "n", "NodeManagerHostname": "n", "Resources": {"CPU": 2.0}})
    crew._devices = None
    crew._places({"NodeID": "n", "NodeManagerHostname": "n", "Resources": {}})
    assert len(said) == 1
