"""The audit: how it reads machine code, and that no row of the table of block sizes spills registers."""

import itertools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from lengths import at_length

from flashbias_kernels import tuning
from flashbias_kernels.audit import sass
from flashbias_kernels.audit.work import one_for_each_row

SMALLEST_SHARED_MEMORY = 99 * 1024  # of a program on sm_86 and sm_89, whose sizes are those of sm_80

KERNEL = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0020*/                   FMNMX R0, R4, R5, !PT ;
        /*0030*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0040*/                   LDGSTS.E.BYPASS.128 [R51], desc[UR24][R174.64], !P5 ;
        /*0050*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0060*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [UR26], R8 ;
        /*0070*/              @!P5 BRA `(.L_x_3) ;
.L_x_4:
        /*0080*/                   FFMA R4, R4, 1.4426950216293334961, -R107.reuse ;
        /*0090*/                   MUFU.EX2 R4, R4 ;
        /*00a0*/                   F2FP.BF16.F32.PACK_AB R80, R25, R24 ;
        /*00b0*/               @P1 BRA `(.L_x_1) ;
        /*00c0*/                   MUFU.EX2 R4, R4 ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [UR26], R8 ;
        /*00f0*/              @!P5 BRA `(.L_x_3) ;
        /*0100*/                   BRA `(.L_x_4) ;
.L_x_5:
        /*0110*/                   BRA `(.L_x_5);
"""


def test_the_loop_over_the_keys_is_found():
    """Not the loop without exponentials, not a wait, and not what comes back from a wait."""
    code = sass.parse(KERNEL)
    assert [len(loop) for loop in sass.loops(code)] == [3, 8, 2, 1]
    loop = sass.key_loop(code)
    assert (loop[0].opcode, loop[-1].target) == ("LDGSTS.E.BYPASS.128", "L_x_1")
    assert sass.count(loop) == {
        "memory": 1,
        "matrix": 1,
        "float": 1,
        "exponential": 1,
        "conversion": 1,
        "other": 3,
    }


def test_without_exponentials_there_is_no_such_loop():
    assert not sass.key_loop(sass.parse(KERNEL.replace("MUFU.EX2", "MUFU.RCP")))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("HGMMA.64x64x16.F32.BF16 R24, R88, gdesc[UR24], R24", "matrix"),
        ("UTCHMMA gdesc[UR10], gdesc[UR12], tmem[UR4], tmem[UR8], idesc[UR9], !UPT", "matrix"),
        ("MUFU.EX2 R113, R30", "exponential"),
        ("MUFU.LG2 R3, R3", "other"),
        ("F2FP.BF16.F32.PACK_AB R111, R112, R25", "conversion"),
        ("PRMT R33, R30, 0x7632, R33", "conversion"),
        ("IMAD.U32 R24, R28, 0x10000, RZ", "conversion"),
        ("IMAD.U32 R51, RZ, RZ, UR6", "other"),
        ("SHF.L.U32 R52, R54, 0x10, RZ", "conversion"),
        ("LOP3.LUT R5, R5, 0xffff0000, RZ, 0xc0, !PT", "conversion"),
        ("LOP3.LUT P5, RZ, R193, 0xff, RZ, 0xc0, !PT", "other"),
        ("LDC R24, c[0x0][0x284]", "other"),
        ("LDGDEPBAR", "other"),
        ("LDG.E.U16 R28, desc[UR36][R24.64]", "memory"),
        ("LDL.LU R28, [R1]", "memory"),
        ("LDTM.x32 R4, tmem[UR4]", "memory"),
        ("STTM.x16 tmem[UR4], R4", "memory"),
        ("STS.128 [R7+UR8+0x6100], R32", "memory"),
        ("FADD2 R4, R4, R6", "float"),
        ("FMNMX R0, R4, R5, !PT", "minmax"),
        ("VIMNMX R0, R4, R5, !PT", "minmax"),
        ("FSEL R26, R24, -INF , P5", "other"),
    ],
)
def test_kinds_of_instructions(text, kind):
    (instruction,) = sass.parse(f"        /*0010*/    @!P0 {text} ;").instructions
    assert instruction.kind == kind


@pytest.mark.parametrize(
    ("lines", "unset"),
    [
        (["UMOV UR4, 0x40", "UIADD3 UR6, UP0, UR4, 0x2, URZ", "STS [R2+UR6], R3"], []),
        # ptxas 12.8: what is added to was never there.
        (["USHF.R.U32.HI UR8, URZ, 0x4, UR9", "UIADD3 UR30, UP0, UR30, 0x40, URZ"], ["UR9", "UR30"]),
        (["ULDC.64 UR4, c[0x0][0x208]", "LDG.E R0, desc[UR4][R2.64]", "UIADD3.64 UR8, UR4, UR4, URZ"], []),
        (
            [
                "R2UR P0, UR5, R3",
                "UMOV UR4, URZ",
                "LDS R0, [UR4+0x100]",
                "UISETP.GT.AND UP0, UPT, UR5, 0x1, UPT",
            ],
            [],
        ),
        # The left side of the product is in registers of each thread: two of the four are not read.
        (["UIADD3.64 UR6, URZ, URZ, URZ", "HGMMA.64x32x16.F32.BF16 R8, R4, gdesc[UR4], R8"], []),
        (["UIADD3.64 UR4, URZ, URZ, URZ", "HGMMA.64x32x16.F32.BF16 R8, R4, gdesc[UR12], R8"], ["UR12"]),
    ],
)
def test_reads_of_what_nothing_has_set_are_found(lines, unset):
    code = sass.parse("\n".join(f"        /*{16 * at:04x}*/    {line} ;" for at, line in enumerate(lines)))
    found = sass.unset_registers(code)
    assert len(found) == len(unset)
    assert all(name in instruction.operands for name, instruction in zip(unset, found, strict=True))


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """Runs the command, which must not see the interpreter that the other tests use."""
    triton = find_spec("triton")
    if triton is None or triton.origin is None:
        pytest.skip("triton is not installed")
    tools = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
    missing = [name for name in ("cuobjdump", "nvdisasm", "ptxas") if not (tools / name).exists()]
    if missing:
        pytest.skip(f"triton comes without {', '.join(missing)}")

    def run(*arguments, **variables):
        file = tmp_path_factory.mktemp("audit") / "found.json"
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, "-m", "flashbias_kernels.audit", "--json", str(file), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**environment, **variables},
        )
        return done, json.loads(file.read_text()) if file.exists() else None

    return run


def test_cases_take_every_row_of_the_block_sizes():
    taken = {(task.kernel, task.row()) for task in one_for_each_row((80, 90, 100))}
    wanted = {(kernel, row) for kernel, table in tuning.TABLES.items() for row in table}
    wanted |= {("transition", row) for row in tuning.TRANSITION if row.blocks is not None}
    wanted |= {(kernel, row) for kernel, table in tuning.PAIR_TABLES.items() for row in table}
    assert taken == wanted


def test_sizes_keep_away_from_what_triton_3_6_compiles_wrongly():
    """Tiles with fewer rows than their warps' matrix instructions."""
    for row in itertools.chain(*tuning.TABLES.values()):
        assert row.arithmetic == "fp32" or row.blocks.queries >= 16 * row.blocks.warps
    for row in tuning.TRANSITION:
        assert row.blocks is None or row.blocks.rows >= 16 * row.blocks.warps
    for row in itertools.chain(*tuning.PAIR_TABLES.values()):
        assert row.blocks.places >= 16 * row.blocks.warps


def test_no_row_of_the_block_sizes_spills_or_lacks_shared_memory(audit):
    architectures = at_length([90], [80, 90, 100])
    done, found = audit("--rows", "--arch", ",".join(map(str, architectures)))
    assert found, done.stderr
    assert not [kernel for kernel in found if kernel["spilled"] or kernel["unset"]]
    assert all(kernel["shared"] <= SMALLEST_SHARED_MEMORY for kernel in found if kernel["arch"] < 90)
    for kernel in found:
        if kernel["kernel"] in ("heads", "output"):
            continue  # nothing in their loops is an exponential
        assert kernel["per_score"]["exponential"] >= 1
        exact = kernel["case"]["dtype"] == "fp32"  # tensor cores would round
        assert (kernel["per_score"]["matrix"] == 0) == exact
        if kernel["kernel"] == "forward":
            assert kernel["per_score"]["minmax"] < 0.25  # a running maximum has 1
    assert {kernel["arch"] for kernel in found} == set(architectures)
    assert {kernel["kernel"] for kernel in found} == {
        *tuning.TABLES, "transition", *tuning.PAIR_TABLES
    }  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_an_interpreter_compiles_nothing(audit):
    done, found = audit(TRITON_INTERPRET="1")
    assert (done.returncode, done.stdout, found) == (2, "", None)
    assert done.stderr.splitlines() == [
        "flashbias_kernels.audit: TRITON_INTERPRET is set, so that kernels would be interpreted and not "
        "compiled; unset it"
    ]


def test_without_triton_it_says_what_installs_it(audit, tmp_path):
    """In an environment of the light set; the release is the one that its tests use."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['triton'] = None\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done, found = audit(PYTHONPATH=path)
    assert (done.returncode, done.stdout, found) == (2, "", None)
    pins = (ROOT / "requirements" / "dev-cpu.txt").read_text().splitlines()
    (pin,) = (line for line in pins if line.startswith("triton=="))
    assert done.stderr.splitlines() == [
        f"flashbias_kernels.audit: the package triton is not installed: {sys.executable} -m pip install {pin}"
    ]


def test_an_unknown_architecture_is_refused(audit):
    done, _ = audit("--arch", "80,75")
    assert done.returncode == 2
    assert "75 is none of 80,86,89,90,100" in done.stderr
