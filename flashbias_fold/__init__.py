"""Protein structure prediction with Protenix, its pair-bias attention replaced, every stage timed.

Importing this package is cheap on purpose: torch, Protenix and rdkit are imported by the modules that
use them, so that ``flashbias-fold --help`` answers at once.
"""

__version__ = "0.1.0"
