"""`polymem jobs`: background work that waits, runs or was parked with its error."""

import asyncio
from typing import Annotated

import typer

from polymem.bootstrap import Administration, SystemClock, open_administration
from polymem.cli.options import AsJson, Config, DataDir, settings_from
from polymem.cli.output import moment, print_json, print_rows, say
from polymem.domain.model import Job, JobId, JobKind, JobState, JsonValue
from polymem.errors import Conflict, NotFound

Row = dict[str, JsonValue]
_COLUMNS = ("id", "kind", "state", "progress", "attempts", "error")

jobs = typer.Typer(help="Background work: what waits, runs, or was parked with its error.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """The app has the group."""
    app.add_typer(jobs, name="jobs")


@jobs.command("list")
def _list(
    *,
    only_failed: Annotated[bool, typer.Option("--failed", help="Only parked jobs.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="Jobs of a tenant at most.")] = 50,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List jobs of all tenants, newest first within a tenant."""
    settings = settings_from(data_dir, config)

    async def act() -> list[Row]:
        async with open_administration(settings) as admin:
            found = [job for tenant_jobs in await _jobs(admin, limit) for job in tenant_jobs]
        return [_row(job) for job in found if not only_failed or job.state is JobState.FAILED]

    print_rows(asyncio.run(act()), as_json=as_json, empty="no jobs", columns=_COLUMNS)


@jobs.command("retry")
def _retry(
    *,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a parked job, as `jobs list` shows it.")],
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Queue a parked job again, with all its attempts."""
    settings = settings_from(data_dir, config)

    async def act() -> Job:
        async with open_administration(settings) as admin:
            return await _requeued(admin, JobId(job_id))

    row = _row(asyncio.run(act()))
    if as_json:
        print_json(row)
    else:
        say(f"job {row['id']} is queued again")


async def _jobs(admin: Administration, limit: int) -> list[tuple[Job, ...]]:
    found = []
    for tenant in await admin.accounts.list_tenants():
        store = admin.storage.tenant(tenant.id)
        users = await admin.accounts.list_users(tenant.id)
        spaces = [space.id for user in users for space, _ in await store.list_spaces(user.id)]
        found.append(await store.list_jobs(frozenset(JobKind), frozenset(spaces), limit=limit))
    return found


async def _requeued(admin: Administration, job_id: JobId) -> Job:
    for tenant in await admin.accounts.list_tenants():
        store = admin.storage.tenant(tenant.id)
        if await store.get_job(job_id) is None:
            continue
        if not await admin.storage.jobs.requeue(tenant.id, job_id, now=SystemClock().now()):
            raise Conflict(f"job {job_id} is not parked")
        job = await store.get_job(job_id)
        if job is not None:
            return job
    raise NotFound("job", job_id)


def _row(job: Job) -> Row:
    return {
        "id": job.id,
        "kind": job.kind.value,
        "state": job.state.value,
        "progress": f"{job.progress_done}/{job.progress_total}",
        "attempts": f"{job.attempts}/{job.max_attempts}",
        "tenant": job.tenant_id,
        "created_at": moment(job.created_at),
        "error": job.error,
    }
