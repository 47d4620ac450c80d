"""An import file stored chunk by chunk, each record exactly once, whatever interrupts it.

The file is read twice in bounded memory: to survey it, and to store it. Each chunk's commit also records how
far the job came, under the job's fence: the next attempt goes on behind the last chunk that was committed, and
a holder that was given up for dead can no longer commit.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from polymem.domain.imports import MemoryRecord, TurnRecord, label_of
from polymem.domain.model import BlobId, Job, JsonValue, KeyId
from polymem.engine.commits import commit_guarded
from polymem.engine.compose import Compose, Composed, Conversation
from polymem.engine.import_files import (
    LIST_KEYS,
    RECORDS_PER_CHUNK,
    Chunks,
    Item,
    Layout,
    Refused,
    Survey,
    items,
    survey,
)
from polymem.engine.ingest import Ingest, clean_turns
from polymem.engine.queueing import Author, RunOutcome, lease_from
from polymem.engine.requests import ImportFormat, NewMemory, NewTurn
from polymem.errors import InvalidInput
from polymem.ports.blobs import BlobStore
from polymem.ports.changes import (
    Applied,
    Change,
    FenceLost,
    FinishJob,
    ProgressJob,
    Replayed,
    RevisionMoved,
    SessionEnd,
    SessionMoved,
)
from polymem.ports.runtime import Clock
from polymem.ports.storage import Storage

MAX_ERRORS_KEPT = 100
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOrder:
    """What was asked for when the file was uploaded, as the job's payload keeps it."""

    blob_id: BlobId
    format: ImportFormat
    file_name: str
    agent_id: str | None
    default_agent_id: str | None
    session_id: str | None
    source: str | None
    key_id: KeyId
    request_id: str
    max_memories: int | None

    def as_payload(self) -> dict[str, JsonValue]:
        """The order as JSON."""
        return {
            "blob_id": self.blob_id,
            "format": self.format.value,
            "file_name": self.file_name,
            "agent_id": self.agent_id,
            "default_agent_id": self.default_agent_id,
            "session_id": self.session_id,
            "source": self.source,
            "key_id": self.key_id,
            "request_id": self.request_id,
            "max_memories": self.max_memories,
        }


def order_of(job: Job) -> ImportOrder:
    """The order that an import job carries."""
    payload = job.payload
    most = payload["max_memories"]
    return ImportOrder(
        blob_id=BlobId(str(payload["blob_id"])),
        format=ImportFormat(str(payload["format"])),
        file_name=str(payload["file_name"]),
        agent_id=_optional(payload["agent_id"]),
        default_agent_id=_optional(payload["default_agent_id"]),
        session_id=_optional(payload["session_id"]),
        source=_optional(payload["source"]),
        key_id=KeyId(str(payload["key_id"])),
        request_id=str(payload["request_id"]),
        max_memories=most if isinstance(most, int) else None,
    )


def _optional(value: JsonValue) -> str | None:
    return None if value is None else str(value)


@dataclass(slots=True)
class _Tally:
    """What could not be imported so far; kept in the job's result, so that it survives a crash too."""

    refused: int = 0
    errors: list[JsonValue] = field(default_factory=list)

    @classmethod
    def of(cls, result: Mapping[str, JsonValue]) -> "_Tally":
        refused = result.get("refused")
        errors = result.get("errors")
        return cls(
            refused=refused if isinstance(refused, int) else 0,
            errors=list(errors) if isinstance(errors, Sequence) else [],
        )

    def add(self, number: int, error: str) -> None:
        self.refused += 1
        if len(self.errors) < MAX_ERRORS_KEPT:
            self.errors.append({"item": number, "error": error})

    def as_result(self, records: int) -> dict[str, JsonValue]:
        return {"records": records, "refused": self.refused, "errors": list(self.errors)}

    def summary(self) -> str | None:
        """One line for who asks what became of the file; None when all of it was imported."""
        if not self.errors:
            return None
        first = self.errors[0]
        text = f"item {first['item']}: {first['error']}" if isinstance(first, Mapping) else ""
        return f"{self.refused} not imported; first, {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A surveyed file with the job that imports it."""

    job: Job
    order: ImportOrder
    survey: Survey
    author: Author
    agent_id: str | None
    session_id: str | None


class ImportRun:
    """Runs import jobs."""

    def __init__(
        self,
        storage: Storage,
        compose: Compose,
        ingest: Ingest,
        blobs: BlobStore,
        *,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._compose = compose
        self._ingest = ingest
        self._blobs = blobs
        self._clock = clock
        self._wake = wake

    async def run(self, job: Job) -> RunOutcome:
        """The file's records are stored, the bad ones listed in the job's result, and the job is done.

        Raises `InvalidInput` for a file without any usable record or a session without id, `QuotaExceeded`,
        `NotFound` when the file is gone; what was stored before stays.
        """
        order = order_of(job)
        blocks = partial(self._blobs.open, job.tenant_id, order.blob_id)
        found = await survey(blocks, order.format)
        file = _surveyed(job, order, found)
        tally = _Tally.of(job.result)
        done = 0
        async for chunk in _chunks(items(blocks, found.layout, order.format), Chunks(order.format)):
            if await self._store(file, tally, chunk, done) is RunOutcome.FENCE_LOST:
                return RunOutcome.FENCE_LOST
            done += 1
        return await self._finish(file, tally)

    async def _store(self, file: _File, tally: _Tally, chunk: Sequence[Item], index: int) -> RunOutcome:
        """The chunk is stored, now or by an earlier attempt."""
        if index < file.job.progress_done:
            return RunOutcome.FINISHED
        for item in chunk:
            if isinstance(item, Refused):
                tally.add(item.number, item.error)
        progress = ProgressJob(
            job_id=file.job.id,
            fence=file.job.fence,
            progress_done=index + 1,
            progress_total=file.survey.chunks,
            result=tally.as_result(file.survey.records),
            lease_until_at=lease_from(file.job, self._clock.now()),
        )
        if file.order.format is ImportFormat.SESSION:
            return await self._store_turns(file, chunk, index, progress)
        memories = [_new_memory(file, item) for item in chunk if isinstance(item, MemoryRecord)]
        composed = await self._compose.memories(file.author, file.job.space_id, memories, now=self._clock.now())
        return await self._commit(file, [*composed.changes, progress])

    async def _store_turns(self, file: _File, chunk: Sequence[Item], index: int, progress: ProgressJob) -> RunOutcome:
        """The chunk is stored. Turns without a time are of the moment of the upload, in the order of the file."""
        said_at = file.job.reference_at + index * RECORDS_PER_CHUNK[file.order.format] * _TICK
        turns = clean_turns([_new_turn(item) for item in chunk if isinstance(item, TurnRecord)], now=said_at)
        if not turns or file.session_id is None:
            return await self._commit(file, [progress])
        conversation = Conversation(
            space_id=file.job.space_id, session_id=file.session_id, agent_id=file.agent_id, source=file.order.source
        )

        async def commit_turns(composed: Composed, ends_at: SessionEnd) -> RunOutcome | SessionMoved:
            return await self._commit_turns(file, [*composed.changes, progress], ends_at)

        draft = await self._ingest.draft(file.author, conversation, turns, now=self._clock.now())
        return await self._ingest.at_the_end(file.author, conversation, draft, commit_turns)

    async def _finish(self, file: _File, tally: _Tally) -> RunOutcome:
        """The job is done; then its file is deleted (or, after a crash between the two, by the next sweep)."""
        _require_usable(file)
        if file.survey.problem is not None:
            tally.add(file.survey.records + 1, file.survey.problem)
        finish = FinishJob(
            job_id=file.job.id,
            fence=file.job.fence,
            result=tally.as_result(file.survey.records),
            error=tally.summary(),
            finished_at=self._clock.now(),
        )
        outcome = await self._commit(file, [finish])
        if outcome is RunOutcome.FINISHED:
            await self._blobs.delete(file.job.tenant_id, file.order.blob_id)
        return outcome

    async def _commit(self, file: _File, changes: Sequence[Change]) -> RunOutcome:
        store = self._storage.tenant(file.job.tenant_id)
        result = await commit_guarded(store, changes, now=self._clock.now(), max_memories=file.order.max_memories)
        return self._outcome(result)

    async def _commit_turns(
        self, file: _File, changes: Sequence[Change], ends_at: SessionEnd
    ) -> RunOutcome | SessionMoved:
        store, most = self._storage.tenant(file.job.tenant_id), file.order.max_memories
        result = await commit_guarded(store, changes, now=self._clock.now(), max_memories=most, ends_at=ends_at)
        return result if isinstance(result, SessionMoved) else self._outcome(result)

    def _outcome(self, result: Applied | Replayed | RevisionMoved | FenceLost | SessionMoved) -> RunOutcome:
        if not isinstance(result, Applied):
            return RunOutcome.FENCE_LOST
        self._wake()
        return RunOutcome.FINISHED


async def _chunks(found: AsyncIterator[list[Item]], cutter: Chunks) -> AsyncIterator[list[Item]]:
    """The records in chunks, each as soon as it is whole."""
    async for some in found:
        for chunk in cutter.add(some):
            yield chunk
    for chunk in cutter.rest():
        yield chunk


def _surveyed(job: Job, order: ImportOrder, found: Survey) -> _File:
    """The file ready to be stored. Raises `InvalidInput` for messages that belong to no session."""
    session_id = order.session_id or _said(found, "session_id")
    if order.format is ImportFormat.SESSION and found.usable and session_id is None:
        raise InvalidInput("session_id", "parse session file: no session_id, neither with the upload nor in the file")
    return _File(
        job=job,
        order=order,
        survey=found,
        author=Author(tenant_id=job.tenant_id, user_id=job.user_id, key_id=order.key_id, request_id=order.request_id),
        agent_id=order.agent_id or _said(found, "agent_id") or order.default_agent_id,
        session_id=session_id,
    )


def _require_usable(file: _File) -> None:
    """Something of the file was stored, or it is a list that holds nothing. Raises `InvalidInput` otherwise."""
    found = file.survey
    is_empty_list = found.layout is Layout.DOCUMENT and found.records == 0 and found.problem is None
    if found.usable or (is_empty_list and file.order.format is ImportFormat.MEMORY):
        return
    raise InvalidInput(
        "file", f"parse {file.order.format.value} file: no valid {LIST_KEYS[file.order.format]} found in file"
    )


def _said(found: Survey, name: str) -> str | None:
    """What the file says of itself. Raises `InvalidInput` when it is no short text."""
    try:
        return label_of(found.members, name)
    except InvalidInput as error:
        raise InvalidInput("file", f"{name}: {error.message}") from error


def _new_memory(file: _File, record: MemoryRecord) -> NewMemory:
    """What the upload says goes before the record, what the record says before its file; the source is the record's."""
    return NewMemory(
        content=record.content,
        memory_type=record.memory_type,
        tags=record.tags,
        metadata=record.metadata,
        source=record.source or file.order.source,
        agent_id=file.order.agent_id or record.agent_id or file.agent_id,
        session_id=file.order.session_id or record.session_id,
        created_at=record.created_at,
    )


def _new_turn(record: TurnRecord) -> NewTurn:
    return NewTurn(role=record.role, content=record.content, seq=record.seq, created_at=record.created_at)
