"""`polymem copy`: all that one database holds into another, of either kind."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, assert_never

import typer

from polymem.bootstrap import SystemClock
from polymem.bootstrap.copying import copy_all, place_of
from polymem.cli.options import AsJson, Config, DataDir, settings_from
from polymem.cli.output import ExitStatus, print_json, say
from polymem.engine.copy import Copied, CopyResult, Difference, Differs, Progress

# A line for a program or a log at most so often.
LINE_SECONDS = 2.0

_PLACE = (
    "`sqlite:` and a data directory, or the URL of a PostgreSQL database; `postgresql:` alone is the database of the"
    " setting database_url, which no list of processes shows."
)
_FILES = "Uploaded files: a bucket `s3://NAME/FOLDER`, or a data directory. [default: {own}]"


def add_to(app: typer.Typer) -> None:
    """The app has the command."""
    app.command("copy")(_copy)


def _copy(
    *,
    source: Annotated[str, typer.Option("--from", metavar="PLACE", help=f"What is copied: {_PLACE}")],
    destination: Annotated[str, typer.Option("--to", metavar="PLACE", help="Where it is copied to, likewise; empty.")],
    source_files: Annotated[
        str | None,
        typer.Option(
            "--files-from",
            metavar="PLACE",
            help=_FILES.format(own="with `sqlite:` its directory, else the settings'"),
            show_default=False,
        ),
    ] = None,
    destination_files: Annotated[
        str | None,
        typer.Option("--files-to", metavar="PLACE", help=_FILES.format(own="likewise"), show_default=False),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Copy everything from one database to another, compare both, and say so; run again to go on where it was cut off.

    Stop the servers of both first. No server opens the destination before it was compared.
    """
    settings = settings_from(data_dir, config)
    read = place_of("from", source, source_files, settings)
    written = place_of("to", destination, destination_files, settings)
    with _reporting() as report:
        result = asyncio.run(copy_all(read, written, report))
    _tell(result, f"{read.shown} to {written.shown}", as_json=as_json)
    match result:
        case Copied():
            return
        case Differs():
            raise typer.Exit(ExitStatus.FAILED)
        case _ as never:
            assert_never(never)


def _tell(result: CopyResult, ends: str, *, as_json: bool) -> None:
    match result:
        case Copied():
            figures = {
                "tenants": result.tenants,
                "memories": result.memories,
                "rows": result.rows,
                "files": result.files,
            }
            if as_json:
                print_json({"ok": True, "is_resumed": result.is_resumed, **figures})
                return
            counted = ", ".join(f"{count} {name}" for name, count in figures.items())
            say(f"copied {ends}: {counted}; all compared and equal")
        case Differs(differences):
            if as_json:
                print_json({"ok": False, "differences": [_row(each) for each in differences]})
                return
            for each in differences:
                whose = "of no tenant" if each.tenant_id is None else f"of tenant {each.tenant_id}"
                say(f"differs: {each.table} {whose}: {each.rows_expected} expected, {each.rows_found} found")
            say("no server opens the destination; the same command makes these tenants anew")
        case _ as never:
            assert_never(never)


def _row(difference: Difference) -> dict[str, str | int | None]:
    return {
        "tenant_id": difference.tenant_id,
        "table": difference.table,
        "rows_expected": difference.rows_expected,
        "rows_found": difference.rows_found,
    }


# --- progress --------------------------------------------------------------------------------------------


@contextmanager
def _reporting() -> Iterator[Callable[[Progress], None]]:
    """What shows the progress on standard error: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield lines(SystemClock().monotonic, _line)
        return
    from rich.console import Console  # noqa: PLC0415 - only this needs rich
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - the same
    from rich.progress import Progress as Bars  # noqa: PLC0415 - the same

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("memories"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def report(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage.value)
            bars.update(tasks[progress.stage], completed=progress.memories, total=progress.of_memories)

        yield report


def lines(monotonic: Callable[[], float], write: Callable[[str], None]) -> Callable[[Progress], None]:
    """What writes a line when a stage begins and at most every `LINE_SECONDS` while it goes on."""
    told_at: dict[str, float] = {}

    def report(progress: Progress) -> None:
        now = monotonic()
        if now - told_at.get(progress.stage, -LINE_SECONDS) < LINE_SECONDS:
            return
        told_at[progress.stage] = now
        write(f"{progress.stage}: {progress.memories} of {progress.of_memories} memories")

    return report


def _line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
