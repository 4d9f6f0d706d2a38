"""`python -m flashbias_fold` is the command line."""

import sys

from flashbias_fold.cli import main

sys.exit(main())
