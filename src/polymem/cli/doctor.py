"""`polymem doctor`: looks at everything an operator would worry about, and changes nothing."""

import asyncio
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import typer

from polymem.bootstrap import Administration, open_administration, open_blobs, open_embedder, read_server
from polymem.bootstrap.directory import KEY_FILE
from polymem.cli.options import AsJson, Config, DataDir, settings_from
from polymem.cli.output import ExitStatus, print_json, print_rows, say
from polymem.config import Settings
from polymem.domain.model import JobState
from polymem.engine.verify import verify_terms
from polymem.errors import PolymemError

LEAST_FREE_BYTES = 256 * 1024 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One thing that was looked at; `compared` counts what was compared, where that is countable."""

    check: str
    is_ok: bool
    message: str
    compared: int | None = None


def add_to(app: typer.Typer) -> None:
    """The app has the command."""
    app.command("doctor")(_doctor)


def _doctor(*, data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """Check the data directory, the model, uploaded files, the index against the rows, and the jobs; repair nothing.

    Ends with 0 when all is well, 1 when something was found, 2 when the database cannot be opened.
    """
    settings = settings_from(data_dir, config)
    checked = _directory_checks(settings)
    try:
        checked += asyncio.run(_opened_checks(settings))
        status = ExitStatus.OK if all(each.is_ok for each in checked) else ExitStatus.FAILED
    except PolymemError as error:
        checked.append(Checked(check="database", is_ok=False, message=error.message))
        status = ExitStatus.USAGE
    _print(checked, as_json=as_json)
    raise typer.Exit(status)


def _print(checked: list[Checked], *, as_json: bool) -> None:
    rows = [
        {"check": each.check, "ok": each.is_ok, "message": each.message, "compared": each.compared} for each in checked
    ]
    is_ok = all(each.is_ok for each in checked)
    if as_json:
        print_json({"ok": is_ok, "findings": rows})
        return
    print_rows(rows, as_json=False, empty="")
    say()
    say(
        "all is well"
        if is_ok
        else f"{sum(not each.is_ok for each in checked)} of {len(checked)} checks found something"
    )


# --- the directory -----------------------------------------------------------------------------------------


def _directory_checks(settings: Settings) -> list[Checked]:
    folder = settings.data_dir
    if settings.database_url is not None and not folder.exists():
        # Such a process may do without one: it keeps uploaded files, a first key and its address there, if anything.
        return [Checked(check="data directory", is_ok=True, message=f"{folder} is not there, and need not be")]
    return [_permissions(folder), *_key_permissions(folder), _free_space(folder)]


def _permissions(folder: Path) -> Checked:
    if not folder.is_dir():
        return Checked(check="data directory", is_ok=False, message=f"{folder} is not a directory")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Checked(check="data directory", is_ok=False, message=f"{folder} cannot be written by this user")
    if _is_open_to_others(folder):
        message = f"other users of this machine can look into it: chmod 700 {folder}"
        return Checked(check="data directory", is_ok=False, message=message)
    return Checked(check="data directory", is_ok=True, message=str(folder))


def _key_permissions(folder: Path) -> list[Checked]:
    file = folder / KEY_FILE
    if not file.is_file():
        return []
    if _is_open_to_others(file):
        return [Checked(check="key file", is_ok=False, message=f"other users can read it: chmod 600 {file}")]
    return [Checked(check="key file", is_ok=True, message=str(file))]


def _is_open_to_others(path: Path) -> bool:
    return bool(path.stat().st_mode & _OTHERS)


def _free_space(folder: Path) -> Checked:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Checked(check="free space", is_ok=False, message=f"not known: {error.strerror}")
    return Checked(check="free space", is_ok=free >= LEAST_FREE_BYTES, message=f"{free // 1_000_000} MB")


# --- what is inside ----------------------------------------------------------------------------------------


async def _opened_checks(settings: Settings) -> list[Checked]:
    checked = [await _server(settings), await _model(settings)]
    async with open_administration(settings) as admin:
        findings = [*await admin.storage.check(), await verify_terms(admin.storage)]
        checked += [
            Checked(check=each.kind.value, is_ok=each.is_ok, message=each.message, compared=each.compared)
            for each in findings
        ]
        checked += [await _files(settings, admin), await _jobs(admin)]
    return checked


async def _server(settings: Settings) -> Checked:
    record = read_server(settings.data_dir)
    if record is None:
        return Checked(check="server", is_ok=True, message="none is running")
    from polymem.cli.attach import is_answering  # noqa: PLC0415 - see there

    is_ok = await is_answering(record)
    message = f"{record.url}, process {record.pid}, version {record.version}, since {record.started_at}"
    return Checked(check="server", is_ok=is_ok, message=message if is_ok else f"does not answer: {message}")


async def _model(settings: Settings) -> Checked:
    async with open_embedder(settings) as embedder:
        identity = embedder.identity
        message = embedder.problem or f"{identity.name}, revision {identity.revision}"
        return Checked(check="model", is_ok=embedder.problem is None, message=message)


async def _files(settings: Settings, admin: Administration) -> Checked:
    """The store of uploaded files answers; `compared` are the files of the oldest tenant."""
    blobs = await open_blobs(settings, owns_directory=False)
    place = settings.blob_url or str(settings.data_dir)
    tenants = await admin.accounts.list_tenants()
    try:
        found = [blob_id for tenant in tenants[:1] for blob_id in await blobs.list_ids(tenant.id)]
    except PolymemError as error:
        return Checked(check="files", is_ok=False, message=error.message)
    return Checked(check="files", is_ok=True, message=place, compared=len(found))


async def _jobs(admin: Administration) -> Checked:
    counts = (await admin.storage.jobs.counts()).by_kind_and_state
    waiting = {state: sum(n for (_, found), n in counts.items() if found is state) for state in JobState}
    parked = waiting[JobState.FAILED]
    message = f"{waiting[JobState.QUEUED]} queued, {waiting[JobState.RUNNING]} running, {parked} parked"
    if parked:
        message += "; see `polymem jobs list --failed`"
    return Checked(check="backlog", is_ok=not parked, message=message, compared=sum(waiting.values()))
