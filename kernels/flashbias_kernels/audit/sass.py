"""Reading machine code: the loop over the keys, and how many instructions of each kind it has.

The text is what nvdisasm prints of a cubin. A loop is what lies between a label and a branch back to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

KINDS = ("matrix", "exponential", "conversion", "memory", "float", "minmax", "other")

_LABEL = re.compile(r"^\.(L_\w+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
_TARGET = re.compile(r"`\(\.(L_\w+)\)")
_UNIFORM = re.compile(r"\bUR(\d+)\b")
# What writes a register that all threads share: its first operand, after predicates.
_WRITES_UNIFORM = re.compile(r"(U(?!ST|BLK|TMA|TC|PLOP|SETMAXREG)|R2UR|S2UR|LDCU|CS2UR|REDUX|CREDUX|VOTEU)")
_WIDE = re.compile(r"\.(64|128|256)\b|WIDE")

# The first that matches the opcode and its operands decides.
_PATTERNS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("matrix", r"[HIQOD]MMA|\w+GMMA|UTC\w*MMA"),
        ("exponential", r"MUFU\.EX2"),
        ("conversion", r"F2F|I2F|F2I|PRMT|HADD2\.(F32|BF16)"),
        # A bf16 becomes an fp32 by 16 zeros behind it: a product with 2^16, a shift, or a mask.
        (
            "conversion",
            r"IMAD\.(U32|SHL\.U32) .*, 0x10000, RZ|SHF\.L\.U32 .*, 0x10, RZ|LOP3\.LUT .*, 0xffff0000,",
        ),
        ("memory", r"LD(?!C|GDEPBAR)|ST[GLST]|ATOM|RED|UTMA|UBLK"),
        ("float", r"FADD|FMUL|FFMA"),
        ("minmax", r"[FV]I?MNMX|IMNMX|HMNMX"),
    )
)


class Instruction(NamedTuple):
    """Of a program's machine code, without the predicate."""

    opcode: str
    operands: str

    @property
    def kind(self) -> str:
        """One of KINDS."""
        text = f"{self.opcode} {self.operands}"
        return next((kind for kind, pattern in _PATTERNS if pattern.match(text)), "other")

    @property
    def spills(self) -> bool:
        """Whether it stores or loads what a thread has no register for."""
        return self.opcode.startswith(("STL", "LDL"))

    @property
    def target(self) -> str | None:
        """The label that it may go to."""
        found = _TARGET.search(self.operands)
        return found[1] if found else None


class Code(NamedTuple):
    """A kernel's instructions in order, and the positions that its labels stand for."""

    instructions: list[Instruction]
    labels: dict[str, int]


def parse(text: str) -> Code:
    """Read what `nvdisasm -c` printed."""
    code = Code([], {})
    for line in text.splitlines():
        if label := _LABEL.match(line):
            code.labels[label[1]] = len(code.instructions)
        elif instruction := _INSTRUCTION.match(line):
            code.instructions.append(Instruction(*instruction.groups()))
    return code


def loops(code: Code) -> Iterator[Sequence[Instruction]]:
    """All loops, inner and outer."""
    for start, end in _spans(code):
        yield code.instructions[start : end + 1]


def key_loop(code: Code) -> Sequence[Instruction]:
    """What each iteration of the loop over the keys executes; nothing if there are no exponentials.

    It is the shortest of the loops that have most exponentials. Longer ones are around it, or ask what the
    mask closes; what a rare row takes has smaller tiles. What a branch may jump over is for the first tile.
    """
    found = [list(_each_time(code, start, end)) for start, end in _spans(code)]
    exponentials = [count(loop)["exponential"] for loop in found]
    most = max(exponentials, default=0)
    return min(
        (loop for loop, has in zip(found, exponentials, strict=True) if has == most > 0), key=len, default=()
    )


def _spans(code: Code) -> Iterator[tuple[int, int]]:
    """The first and the last place of each loop.

    What waits for memory stands behind the end of the kernel and branches back into its middle. That is no
    loop over the code in between, which is known by being entered from above elsewhere than at its start.
    """
    jumps = [
        (source, code.labels[instruction.target])
        for source, instruction in enumerate(code.instructions)
        if instruction.target in code.labels
    ]
    for end, start in jumps:
        if start <= end and not any(source < start < target <= end for source, target in jumps):
            yield start, end


def _each_time(code: Code, start: int, end: int) -> Iterator[Instruction]:
    """Instructions that no branch within the loop jumps over; matrix products one thread begins for all."""
    place = start
    while place <= end:
        instruction = code.instructions[place]
        yield instruction
        target = code.labels.get(instruction.target or "", 0) if instruction.opcode.startswith("BRA") else 0
        skipped = code.instructions[place + 1 : target] if target <= end else []
        place = target if skipped and all(i.kind != "matrix" for i in skipped) else place + 1


def unset_registers(code: Code) -> list[Instruction]:
    """Instructions that read a register which all threads share before any has set it.

    A compiler that is right makes none: ptxas 12.8 loses the copy of an address that two products start from.
    """
    found, written = [], set[int]()
    for instruction in code.instructions:
        operands = instruction.operands.split(", ")
        target = next((o for o in operands if not re.fullmatch(r"!?U?PT?\d*", o)), "")
        writes = _WRITES_UNIFORM.match(instruction.opcode) and _UNIFORM.fullmatch(target)
        read = ", ".join(operands[operands.index(target) + 1 :] if writes else operands)
        # Of four registers, a product on sm_90 reads the first two only if its left side is in shared memory.
        skipped = 2 if "GMMA" in instruction.opcode else 0
        if {int(name) + skipped for name in _UNIFORM.findall(read)} - written:
            found.append(instruction)
        if writes:
            first = int(writes[1])
            written |= set(range(first, first + (4 if _WIDE.search(instruction.opcode) else 1)))
    return found


def count(loop: Sequence[Instruction]) -> Counter[str]:
    """How many instructions of each kind."""
    return Counter(instruction.kind for instruction in loop)
