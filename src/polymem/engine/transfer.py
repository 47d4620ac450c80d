"""Files taken in for import: durable before the caller is told, stored by a job, watched by its id."""

from collections.abc import Callable

from polymem.domain.access import Action
from polymem.domain.limits import MAX_IMPORT_BYTES, MAX_PAGE, check_range
from polymem.domain.model import BlobId, Call, Job, JobId, JobKind, SpaceId
from polymem.engine.access import Access
from polymem.engine.audit import AuditAction, audit
from polymem.engine.checks import check_import
from polymem.engine.commits import claim_of, commit
from polymem.engine.import_run import ImportOrder, ImportRun
from polymem.engine.queueing import RunOutcome, author_of, new_job
from polymem.engine.requests import ImportRequest
from polymem.errors import Forbidden, NotFound, PolymemError, TooLarge
from polymem.ports.blobs import BlobStore
from polymem.ports.changes import AddJob, Applied, Change, Stored
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage, TenantStore


class Transfer:
    """Imports into the personal space of the principal."""

    def __init__(
        self,
        storage: Storage,
        access: Access,
        run: ImportRun,
        blobs: BlobStore,
        *,
        clock: Clock,
        ids: Ids,
        wake: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._access = access
        self._run = run
        self._blobs = blobs
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def start_import(self, call: Call, request: ImportRequest) -> Job:
        """The file and the job that imports it are durable. Imports of one space run one after another.

        Raises `InvalidInput`, `TooLarge` for a file beyond the limit (nothing of it is left), `Forbidden`,
        `IdempotencyConflict`.
        """
        check_import(request)
        space_id = await self._access.writable(call, None)
        job = self._job(call, request, space_id)
        blob_id = BlobId(job.id)
        tenant_id = call.principal.tenant_id
        try:
            await self._blobs.put(tenant_id, blob_id, request.chunks, max_bytes=MAX_IMPORT_BYTES)
        except TooLarge as error:
            raise TooLarge("file", error.limit, error.unit) from error
        changes: list[Change] = [
            AddJob(job=job),
            audit(author_of(call), AuditAction.START_IMPORT, job.id, at=job.created_at),
        ]
        store = self._storage.tenant(tenant_id)
        try:
            result = await commit(store, changes, now=job.created_at, claim=claim_of(call))
        except PolymemError:
            await self._blobs.delete(tenant_id, blob_id)
            raise
        if isinstance(result, Applied):
            self._wake()
            return job
        await self._blobs.delete(tenant_id, blob_id)
        first = result.outcomes[0]
        return await self._import(store, JobId(first.id if isinstance(first, Stored) else job.id), space_id)

    async def get_import(self, call: Call, job_id: JobId) -> Job:
        """The import job of this id. Raises `NotFound` when there is none that the principal may read."""
        space_id = await self._readable(call)
        return await self._import(self._storage.tenant(call.principal.tenant_id), job_id, space_id)

    async def list_imports(self, call: Call, *, limit: int = MAX_PAGE) -> tuple[Job, ...]:
        """The import jobs that the principal may read, newest first."""
        check_range("limit", limit, least=1, most=MAX_PAGE)
        space_id = await self._readable(call)
        store = self._storage.tenant(call.principal.tenant_id)
        return await store.list_jobs(frozenset({JobKind.IMPORT}), frozenset({space_id}), limit=limit)

    async def run_import(self, job: Job) -> RunOutcome:
        """What `ImportRun.run` says."""
        return await self._run.run(job)

    async def _readable(self, call: Call) -> SpaceId:
        personal = call.principal.personal_space_id
        if not await self._access.within(call, frozenset({personal}), Action.READ):
            raise Forbidden("this key may not use the personal space of its user")
        return personal

    async def _import(self, store: TenantStore, job_id: JobId, space_id: SpaceId) -> Job:
        job = await store.get_job(job_id)
        if job is None or job.kind is not JobKind.IMPORT or job.space_id != space_id:
            raise NotFound("import", job_id)
        return job

    def _job(self, call: Call, request: ImportRequest, space_id: SpaceId) -> Job:
        """The job as it is queued. Its file bears the job's id: that is how the sweep knows whose it is."""
        principal = call.principal
        now = self._clock.now()
        job_id = JobId(self._ids.new_id())
        order = ImportOrder(
            blob_id=BlobId(job_id),
            format=request.format,
            file_name=request.file_name,
            agent_id=request.agent_id,
            default_agent_id=request.default_agent_id,
            session_id=request.session_id,
            source=request.source,
            key_id=principal.key_id,
            request_id=call.request_id,
            max_memories=principal.plan.max_memories,
        )
        return new_job(
            job_id,
            JobKind.IMPORT,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            space_id=space_id,
            payload=order.as_payload(),
            now=now,
            ordering_key=f"import:{space_id}",
        )
