"""What the options of a prediction may be; read by the command line, which imports nothing heavy."""

from __future__ import annotations

CHOICES: dict[str, tuple[str, ...]] = {
    "bias": ("flashbias", "dense", "none", "stock"),
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("bf16", "fp32"),
    "format": ("cif", "pdb", "both"),
    "msa_server": ("protenix", "colabfold"),
}
ENGINES = ("local", "ray")
FACTOR_NETWORKS = ("sketch", "means")
MAX_SEED = 2**32 - 1  # what every generator that is seeded accepts

# Neighbours in sequence are what factors find hardest: pairs at most so many places apart keep their exact
# bias, for which the kernels' tiles near the diagonal read a little more.
REACH, LARGEST_REACH = 16, 256

# What `compare` compares unless it is told otherwise, and how the name of a plan's file ends.
METHODS = ("stock", "flashbias", "dense", "none")
PLAN_SUFFIXES = (".yaml", ".yml")
