"""The command line: parse, call, render. Nothing heavy is imported before a command runs."""

from flashbias_fold.cli.main import main

__all__ = ["main"]
