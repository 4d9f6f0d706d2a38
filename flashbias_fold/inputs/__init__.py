"""Reading and checking what is to be predicted, before any model is loaded.

Nothing here imports torch or Protenix, and rdkit and Biopython only when a file needs them.
"""

from flashbias_fold.inputs.alignments import NO_ALIGNMENT
from flashbias_fold.inputs.jobs import ComponentCatalog, InputSet, Job, ReadingWatch, Rejected
from flashbias_fold.inputs.load import load_inputs

__all__ = ["NO_ALIGNMENT", "ComponentCatalog", "InputSet", "Job", "ReadingWatch", "Rejected", "load_inputs"]
