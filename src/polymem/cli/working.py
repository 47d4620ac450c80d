"""`polymem work` and `polymem migrate`: processes beside the servers of a PostgreSQL database."""

import asyncio
import contextlib
from typing import Annotated

import typer

from polymem import __version__
from polymem.bootstrap import (
    Working,
    begin_loading_model,
    bring_up_schema,
    check_work,
    database_place,
    distribute_tables,
    work,
)
from polymem.cli.logs import configure_logging
from polymem.cli.options import Config, DataDir, settings_from, with_settings
from polymem.cli.output import say
from polymem.config import Loaded


def add_to(app: typer.Typer) -> None:
    """The app has both commands."""
    app.command("work")(with_settings(_work))
    app.command("migrate")(_migrate)


def _work(
    loaded: Loaded,
    *,
    is_check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Run nothing; end with 0 when the database answers and has this program's schema. For probes.",
        ),
    ] = False,
) -> None:
    """Run the background jobs of a PostgreSQL database until Ctrl-C or SIGTERM; listens nowhere, writes no files.

    A stop gives jobs in hand back to other workers. A worker that hangs holds nothing up: its jobs are taken over.
    """
    settings = loaded.settings
    if is_check:
        asyncio.run(check_work(settings))
        say(f"{database_place(settings)} answers")
        return
    model = begin_loading_model(settings)

    import uvloop  # noqa: PLC0415 - only long-running processes need it

    configure_logging(settings)

    def announce(working: Working) -> None:
        with contextlib.suppress(BrokenPipeError):
            jobs = "job" if working.concurrency == 1 else "jobs"
            lines = [
                f"polymem {__version__} works for {working.database}, {working.concurrency} {jobs} at a time",
                *(f"  degraded  {reason}" for reason in working.degraded),
            ]
            say("\n".join(lines))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(settings, announce, model))


def _migrate(
    *,
    is_distributed: Annotated[
        bool,
        typer.Option(
            "--citus",
            help="Distribute the tables by tenant over the servers of a Citus cluster, too. Never run against one: "
            "see docs/scaling.md.",
        ),
    ] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Bring the database's schema to this program's; servers and workers do so themselves when they start."""
    settings = settings_from(data_dir, config)
    asyncio.run(bring_up_schema(settings))
    if is_distributed:
        say(f"{asyncio.run(distribute_tables(settings))} tables were distributed")
    say(f"the schema of {database_place(settings) or settings.data_dir} is that of polymem {__version__}")
