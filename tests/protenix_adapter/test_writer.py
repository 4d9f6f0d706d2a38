"""The names in a structure's file; what else is written is compared with Protenix's own in test_engine.py."""

import random
import string

import gemmi
import pytest
from biotite.structure.io import pdbx
from command_line import without_origin

from flashbias_fold.protenix_adapter.origin import Origin
from flashbias_fold.protenix_adapter.writer import _complete_cif

# As Protenix, through biotite, writes them for a job of this name.
AS_WRITTEN = "data_{name}_sample_0_predicted_by_protenix\n#\n_entry.id   {name}\n#\n_entity.id   1\n#\n"
ORIGIN = Origin("demo", True, "stock", None, "fp32", steps=1, cycles=1, seed=1)
RANDOM = random.Random(0)
NAMES = [
    *(
        "plain",
        "T1104-D1",
        "7pzb",
        "a.b+c",
        "two words",
        "it's",
        'say "x"',
        "_item",
        "$frame",
        "#1",
        "?",
        ".",
    ),
    *(
        "[x]",
        ";x",
        "loop_",
        "LOOP_",
        "data_x",
        "save_",
        "stop_",
        "global_",
        "x#y",
        "-1",
        "'",
        '"',
        "a' b",
        "x;",
    ),
    *("".join(RANDOM.choices(string.printable[:94], k=RANDOM.randint(1, 6))) for _ in range(300)),
]


@pytest.fixture
def mended(tmp_path):
    """The file's path, after its names were mended and its origin was added."""

    def mend(name):
        path = tmp_path / "structure.cif"
        path.write_text(AS_WRITTEN.format(name=name))
        _complete_cif(path, name, ORIGIN, 0)
        return path

    return mend


def test_every_reader_finds_the_name_of_the_job(mended):
    for name in NAMES:
        path = mended(name)
        # CIF has two kinds of quotes, and no way to write a short value that holds both.
        expected = name if "'" not in name or '"' not in name else name.replace('"', "_")
        block = gemmi.cif.read(str(path)).sole_block()
        assert gemmi.cif.as_string(block.find_value("_entry.id")) == expected
        assert block.find_value("_entity.id") == "1"
        assert pdbx.CIFFile.read(path).block["entry"]["id"].as_item() == expected


@pytest.mark.parametrize("name", ["plain", "T1104-D1", "a.b+c", "x#y"])
def test_a_plain_name_stays_as_protenix_writes_it(mended, name):
    path = mended(name)
    assert without_origin(path.name, path.read_bytes()).decode() == AS_WRITTEN.format(name=name)


@pytest.mark.parametrize("name", ["αβ", "naïve", "a\u00a0b"])
def test_a_letter_that_cif_does_not_have_is_replaced(mended, name):
    block = gemmi.cif.read(str(mended(name))).sole_block()
    plain = "".join(letter if letter.isascii() else "_" for letter in name)
    assert gemmi.cif.as_string(block.find_value("_entry.id")) == plain
    assert block.name == f"{plain}_sample_0_predicted_by_protenix"
