"""Options that many commands share, and the settings they lead to."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from polymem.config import TABLE, Setting, Settings, load
from polymem.domain.limits import in_utc
from polymem.errors import InvalidInput

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="PATH", help="Data directory.", show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings file instead of polymem.toml in the data directory.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def settings_from(data_dir: Path | None, config: Path | None, **flags: object) -> Settings:
    """The settings in force for a command with these options."""
    return load({"data_dir": data_dir, **flags}, config=config).settings


def time_in(option: str, text: str) -> datetime:
    """The time an option names, in UTC, which is also where one without an offset is taken. Raises `InvalidInput`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(option, f"{option}: not an ISO 8601 time, such as 2030-01-31T12:00:00Z") from error
    return in_utc(option, at if at.tzinfo is not None else at.replace(tzinfo=UTC))


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command with one option for each row of the settings table; it is called with `loaded`, the settings in force.

    Its own parameters after `loaded` stay options of their own.
    """

    def called(**values: Any) -> None:
        config = values.pop("config")
        flags = {row.name: values.pop(row.name) for row in TABLE}
        command(loaded=load(flags, config=config), **values)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [*(_parameter(row) for row in TABLE), _keyword("config", Config), *own]
    called.__name__ = command.__name__
    called.__doc__ = command.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what inspect reads
    return called


def _parameter(row: Setting) -> inspect.Parameter:
    option = typer.Option(
        row.flag, metavar=row.kind.name.upper(), help=f"{row.help} [default: {row.default}]", show_default=False
    )
    return _keyword(row.name, Annotated[str | None, option])


def _keyword(name: str, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
