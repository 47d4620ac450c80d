"""The command line: one command for each thing an operator or a person at a shell does."""

from polymem.cli.entry import app

__all__ = ["app"]
