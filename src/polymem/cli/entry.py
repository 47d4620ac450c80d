"""All commands together."""

import sys
from typing import Annotated

import typer

from polymem import __version__
from polymem.cli import accounts, copy, doctor, documentation, jobs, memories, serving, settings, working

app = typer.Typer(
    name="polymem",
    help="One memory server, many memory APIs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
serving.add_to(app)
working.add_to(app)
memories.add_to(app)
accounts.add_to(app)
jobs.add_to(app)
doctor.add_to(app)
copy.add_to(app)
settings.add_to(app)
documentation.add_to(app)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - typer hands the value of the flag
    if is_asked:
        sys.stdout.write(f"polymem {__version__}\n")
        raise typer.Exit


@app.callback()
def _polymem(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """One memory server, many memory APIs."""
