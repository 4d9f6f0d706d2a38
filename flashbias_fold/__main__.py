"""`python -m flashbias_fold` is the command line."""

import os
import sys

# Python puts the working directory first, where a folder named `configs`, `runner` or `tests` would be
# imported in place of Protenix's own of that name. (So would a `pathlib.py` here: hence os, already there.)
if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
    del sys.path[0]

from flashbias_fold.cli import main

sys.exit(main())
