"""One task of the audit: a kernel of a case, compiled for one GPU, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from flashbias_kernels.audit import sass
from flashbias_kernels.audit.cases import ROWS, USUAL, AnyCase, AnyRow
from flashbias_kernels.audit.compiler import WARP, Compiled, compiled
from flashbias_kernels.tuning import Blocks


@dataclass(frozen=True)
class Task:
    """What to compile."""

    case: AnyCase
    kernel: str
    arch: int

    def row(self) -> AnyRow:
        """Where its block sizes stand."""
        return self.case.row(self.kernel, self.arch)

    def __str__(self) -> str:
        return f"{self.kernel} sm_{self.arch} {self.case.dtype} D={self.case.dim} {self.case.words}"


@dataclass(frozen=True)
class Finding:
    """What it needs, and the tile it was compiled for."""

    task: Task
    blocks: Blocks
    compiled: Compiled

    @property
    def sound(self) -> bool:
        """Whether it gets what it needs, registers and shared memory, and was compiled rightly."""
        return not self.compiled.spilled and self.compiled.fits and not self.compiled.unset

    @property
    def per_score(self) -> dict[str, float]:
        """Instructions of each kind in the loop over the keys."""
        of_a_thread = self.blocks.queries * self.blocks.keys / (self.blocks.warps * WARP)
        return {kind: self.compiled.kinds.get(kind, 0) / of_a_thread for kind in sass.KINDS}

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kernel": self.task.kernel,
            "case": vars(self.task.case),
            "blocks": self.blocks._asdict(),
            **vars(self.compiled),
            "programs": self.compiled.programs,
            "fits": self.compiled.fits,
            "per_score": self.per_score,
        }


Outcome = Finding | str


def tasks(architectures: Sequence[int]) -> list[Task]:
    """All kernels of the usual cases, for each GPU."""
    return [
        Task(case, kernel, arch) for arch in architectures for case in USUAL for kernel in case.launches(arch)
    ]


def one_for_each_row(architectures: Sequence[int]) -> list[Task]:
    """A kernel that takes it for each row of the tables of block sizes, the GPUs in turn."""
    first: dict[tuple[str, AnyRow], Task] = {}
    for turn, case in enumerate(ROWS):
        for arch in (*architectures[turn % len(architectures) :], *architectures):
            for kernel in case.launches(arch):
                task = Task(case, kernel, arch)
                first.setdefault((kernel, task.row()), task)
    return list(first.values())


def run(task: Task) -> Outcome:
    """Do it, or say why it cannot be done."""
    call = task.case.launches(task.arch)[task.kernel]
    blocks = task.case.blocks(call)
    try:
        with redirect_stdout(StringIO()):  # Triton prints the whole program that its assembler refuses
            return Finding(task, blocks, compiled(call, task.arch))
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return f"{task}: not compiled: {type(error).__name__}: {reason[0]}"
