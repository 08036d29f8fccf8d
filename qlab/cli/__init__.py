"""The `qlab` command: what the app does, without a browser, for scripts and continuous integration.

`python -m qlab.cli` is the same command.
"""

from qlab.cli.commands import cli, main
from qlab.cli.subject import Subject, load_subject

__all__ = ["Subject", "cli", "load_subject", "main"]
