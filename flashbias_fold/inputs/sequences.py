"""The letters of polymer sequences and the components that they stand for."""

from __future__ import annotations

from flashbias_fold.inputs.place import Place, as_text, printable

# Protenix's own tables, letter by letter: any other letter ends its featurizer with a KeyError.
# fmt: off
PROTEIN = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU",
    "G": "GLY", "H": "HIS", "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE",
    "P": "PRO", "S": "SER", "T": "THR", "W": "TRP", "Y": "TYR", "V": "VAL", "X": "UNK",
}
# fmt: on
DNA = {"A": "DA", "G": "DG", "C": "DC", "T": "DT", "X": "DN", "I": "DI", "N": "DN", "U": "DU"}
RNA = {"A": "A", "G": "G", "C": "C", "U": "U", "X": "N", "I": "I", "N": "N"}

COMPONENTS = {"proteinChain": PROTEIN, "dnaSequence": DNA, "rnaSequence": RNA}
POLYMER = {"proteinChain": "protein", "dnaSequence": "DNA", "rnaSequence": "RNA"}


def read_sequence(value: object, entity: str, place: Place) -> str:
    """The sequence of a polymer in upper case and without white space, every letter checked."""
    letters = COMPONENTS[entity]
    sequence = "".join(as_text(value, place, what=f"a {POLYMER[entity]} sequence").split())
    unknown = {letter for letter in set(sequence) if not letter.isascii() or letter.upper() not in letters}
    if unknown:
        position, letter = next(
            (position, letter) for position, letter in enumerate(sequence, start=1) if letter in unknown
        )
        allowed = "".join(sorted(letters))
        raise place.error(
            f"expected {POLYMER[entity]} letters ({allowed}), found '{printable(letter)}' at {position}"
        )
    if sequence != sequence.upper():
        place.warn("lower-case letters are read as upper case")
    return sequence.upper()
