"""The command line: `rlr --help`."""

from rlr_core.cli.main import main

__all__ = ["main"]
