"""Compiling a launch for a GPU that need not be there, and what the machine code needs."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from flashbias_kernels.audit import sass
from flashbias_kernels.launch import Call

WARP = 32
KIB = 1024
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


class ToolError(Exception):
    """Triton's package lacks a program that reads machine code, or that program cannot read this one."""


@dataclass(frozen=True)
class Multiprocessor:
    """What programs share, from the CUDA programming guide's table of compute capabilities."""

    shared: int
    largest_program: int
    warps: int
    programs: int
    registers: int = 65536
    partitions: int = 4
    tensor_columns: int = 0


MULTIPROCESSORS = {
    80: Multiprocessor(164 * KIB, 163 * KIB, warps=64, programs=32),
    86: Multiprocessor(100 * KIB, 99 * KIB, warps=48, programs=16),
    89: Multiprocessor(100 * KIB, 99 * KIB, warps=48, programs=24),
    90: Multiprocessor(228 * KIB, 227 * KIB, warps=64, programs=32),
    100: Multiprocessor(228 * KIB, 227 * KIB, warps=64, programs=32, tensor_columns=512),
}


@dataclass(frozen=True)
class Compiled:
    """A kernel's needs, and the instructions of one thread in an iteration of its loop over the keys.

    Attributes:
        registers: Of a thread.
        spilled: Bytes that a thread keeps in memory for want of registers.
        spills_in_loop: How many instructions of the loop store or load such bytes.
        shared: Bytes of shared memory of a program.
        tensor_columns: Columns of tensor memory of a program, which sm_100 has.
        unset: Instructions that read a register which nothing has set: the compiler's fault.
        kinds: How many instructions of each kind.
        seconds: It took to compile.
    """

    arch: int
    warps: int
    registers: int
    spilled: int
    spills_in_loop: int
    shared: int
    tensor_columns: int
    unset: list[str]
    kinds: dict[str, int]
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the GPU has as much shared memory for a program."""
        return self.shared <= MULTIPROCESSORS[self.arch].largest_program

    @property
    def programs(self) -> int:
        """How many a multiprocessor has room for at a time."""
        has = MULTIPROCESSORS[self.arch]
        of_a_warp = -(-self.registers * WARP // 256) * 256
        warps = min(has.registers // has.partitions // of_a_warp * has.partitions, has.warps)
        most = [has.programs, warps // self.warps, has.shared // (self.shared + KIB)]
        if self.tensor_columns:
            most.append(has.tensor_columns // self.tensor_columns)
        return min(most)


class _AbsentGpu:
    """All that Triton asks of a driver in order to compile."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, WARP)

    def get_current_device(self) -> int:
        return self.arch  # compiled kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(call: Call, arch: int) -> Compiled:
    """Compile what a launch would.

    Raises:
        ToolError: The machine code cannot be read.
    """
    driver.set_active(_AbsentGpu(arch))
    start = time.perf_counter()
    kernel = call.kernel.warmup(*call.arguments, grid=call.grid, **call.options)
    seconds = time.perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        needs = _RESOURCES.search(_output("cuobjdump", "--dump-resource-usage", cubin.name))
        code = sass.parse(_output("nvdisasm", "-c", cubin.name))
    if needs is None:
        raise ToolError("cuobjdump does not say how many registers the kernel has")
    registers, stack, local = map(int, needs.groups())
    loop = sass.key_loop(code)
    return Compiled(
        arch=arch,
        warps=kernel.metadata.num_warps,
        registers=registers,
        spilled=stack + local,
        spills_in_loop=sum(instruction.spills for instruction in loop),
        shared=kernel.metadata.shared,
        tensor_columns=getattr(kernel.metadata, "tmem_size", None) or 0,
        unset=[" ".join(instruction) for instruction in sass.unset_registers(code)],
        kinds=dict(sass.count(loop)),
        seconds=seconds,
    )


def _output(tool: str, *arguments: str) -> str:
    path = _TOOLS / tool
    if not path.exists():
        raise ToolError(f"triton {triton.__version__} comes without {tool}")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{tool}: {done.stderr.strip()}")
    return done.stdout
