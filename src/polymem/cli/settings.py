"""`polymem settings`: what is in force, and where it comes from."""

import typer

from polymem.cli.options import AsJson, with_settings
from polymem.cli.output import print_rows
from polymem.config import TABLE, Loaded


def add_to(app: typer.Typer) -> None:
    """The app has the command."""
    app.command("settings")(with_settings(_settings))


def _settings(loaded: Loaded, *, as_json: AsJson = False) -> None:
    """Show every setting: the value in force and where it comes from, secrets masked."""
    rows = [
        {
            "setting": row.name,
            "value": loaded.shown(row),
            "source": loaded.origins[row.name],
            "variable": row.variable,
            "help": row.help,
        }
        for row in TABLE
    ]
    print_rows(rows, as_json=as_json, empty="", columns=("setting", "value", "source"))
