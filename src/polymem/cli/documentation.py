"""`polymem docs`: the pages that are made from the tables of settings and commands."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from polymem.cli.output import ExitStatus, complain, say
from polymem.config import CONFIG_FILE, CONFIG_VARIABLE, PREFIX, TABLE

SETTINGS_PAGE = "settings.md"
COMMANDS_PAGE = "cli.md"
_OWN_OPTIONS = frozenset({"--help"})


def add_to(app: typer.Typer) -> None:
    """The app has the command."""

    def docs(
        *,
        folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the pages stand.")] = Path("docs"),
        is_check: Annotated[
            bool, typer.Option("--check", help="Write nothing; fail when a page is out of date.")
        ] = False,
    ) -> None:
        """Write the pages about settings and commands."""
        stale = [name for name, text in pages(app).items() if _is_stale(folder / name, text)]
        if is_check and stale:
            complain(f"out of date: {', '.join(stale)}; `polymem docs {folder}` writes them")
            raise typer.Exit(ExitStatus.FAILED)
        for name in stale:
            (folder / name).write_text(pages(app)[name], encoding="utf-8")
            say(f"wrote {folder / name}")

    app.command("docs", hidden=True)(docs)


def pages(app: typer.Typer) -> dict[str, str]:
    """The generated pages by file name."""
    return {SETTINGS_PAGE: "\n".join(_settings_page()) + "\n", COMMANDS_PAGE: "\n".join(_commands_page(app)) + "\n"}


def _is_stale(page: Path, text: str) -> bool:
    return not page.is_file() or page.read_text(encoding="utf-8") != text


def _settings_page() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "<!-- Made by `polymem docs`; change the table in src/polymem/config.py instead. -->"
    yield ""
    yield "Each setting takes its value from the first of these that has one:"
    yield ""
    yield "1. an option of `polymem serve` (and of `polymem settings`, which shows what is in force and why);"
    yield f"2. an environment variable, `{PREFIX}` and the name in capitals;"
    yield f"3. `{CONFIG_FILE}` in the data directory, or the file that `--config` or `{CONFIG_VARIABLE}` names;"
    yield "4. the default."
    yield ""
    yield "A name that nobody knows is an error, in the file and in the environment. `data_dir` can stand only in a"
    yield "file that was named, not in the data directory's own."
    for row in TABLE:
        yield ""
        yield f"## {row.name}"
        yield ""
        yield row.help
        yield ""
        yield f"- option `{row.flag}`, variable `{row.variable}`"
        yield f"- {row.kind.name}: {row.kind.allowed}"
        yield f"- default: {f'`{row.default}`' if row.default else 'empty'}"


def _commands_page(app: typer.Typer) -> Iterator[str]:
    yield "# Command line"
    yield ""
    yield "<!-- Made by `polymem docs`; change the commands in src/polymem/cli instead. -->"
    yield ""
    yield "`polymem --version` prints the version; every command explains itself with `--help`."
    yield ""
    yield "## Exit statuses"
    yield ""
    yield "| status | meaning |"
    yield "|---|---|"
    for status in ExitStatus:
        yield f"| {status.value} | {status.meaning} |"
    yield from _commands("polymem", typer.main.get_command(app))


def _commands(name: str, command: Any) -> Iterator[str]:
    """The sections of a command and of those under it; groups carry no section of their own."""
    children = getattr(command, "commands", {})
    for child_name, child in children.items():
        if not child.hidden:
            yield from _commands(f"{name} {child_name}", child)
    if not children:
        yield from _command(name, command)


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [
        each for each in command.params if each.param_type_name == "option" and not _OWN_OPTIONS & set(each.opts)
    ]
    yield ""
    yield f"## {name}"
    yield ""
    yield f"`{' '.join([name, '[OPTIONS]', *(each.metavar for each in arguments)])}`"
    yield ""
    yield " ".join(command.help.split())
    if arguments or options:
        yield ""
        yield "| | |"
        yield "|---|---|"
    for each in arguments:
        yield f"| `{each.metavar}` | {_cell(each.help)} |"
    for each in options:
        spelled = "/".join([*each.opts, *each.secondary_opts])
        spelled += "" if each.is_flag else f" {each.metavar}"
        yield f"| `{spelled}` | {_cell(each.help)}{_default(each)} |"


def _default(option: Any) -> str:
    is_told = option.show_default and option.default not in (None, False, "")
    return f" [default: {option.default}]" if is_told else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
