"""mem9's routes: each translates a request into one call of the engine, and the answer back."""

import asyncio
import platform
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from polymem.domain.imports import label_of
from polymem.domain.model import Job, JobId, MemoryType
from polymem.domain.query import ListOrder, MemoryFilter, RecallHit, RecallRequest
from polymem.domain.scoring import DEFAULT_RELEVANCE_CUT
from polymem.engine.import_files import survey
from polymem.engine.import_run import order_of
from polymem.engine.requests import ImportFormat, ImportRequest, IngestMode, MemoryPatch, NewMemory, NewTurn, NewTurns
from polymem.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from polymem.http.auth import (
    AGENT_HEADER,
    MAX_AGENT_CHARACTERS,
    is_forwarded,
    is_from_loopback,
    key_in_headers,
    names_loopback_host,
)
from polymem.http.dialects.mem9 import wire
from polymem.http.dialects.mem9.trace import shown_trace
from polymem.http.kit import (
    DialectContext,
    KitRequest,
    UploadedFile,
    count_query,
    count_stranger,
    json_response,
    received_form,
)

NAME = "mem9"
PATHS = ("/v1alpha1", "/v1alpha2", "/healthz", "/versionz")
KEY_IN_PATH = re.compile(r"/v1alpha1/mem9s/(?P<key>[^/]+)")
OPEN_ROUTES = frozenset(
    {("GET", "/healthz"), ("GET", "/versionz"), ("POST", "/v1alpha1/mem9s"), ("GET", "/v1alpha2/status")}
)
_IMPORT_BYTES = 50 * 1024 * 1024
_FORM_OVERHEAD = 64 * 1024
_HEADER_BASE = "/v1alpha2/mem9s"
_PATH_BASE = "/v1alpha1/mem9s/{tenantID}"
_LISTED_TASKS = 1000
_MESSAGES_AT_ONCE = 500
_NO_TURNS = frozenset({MemoryType.INSIGHT, MemoryType.PINNED})
_FILE_FORMATS = {"memory": ImportFormat.MEMORY, "session": ImportFormat.SESSION}


class ListQuery(BaseModel):
    """What `GET memories` can be asked; parameters nobody knows are ignored."""

    model_config = ConfigDict(extra="ignore")

    q: Annotated[
        str | None, Field(description="With it: recall, best first. Without: a list, newest change first.")
    ] = None
    tags: Annotated[str | None, Field(description="Comma list; all must be present.")] = None
    source: str | None = None
    state: Annotated[
        str | None, Field(description="active (default), paused, archived, deleted, all; or a comma list.")
    ] = None
    memory_type: Annotated[str | None, Field(description="insight, pinned, session; or a comma list.")] = None
    agent_id: str | None = None
    session_id: str | None = None
    limit: Annotated[
        wire.LenientInteger, Field(description="Page size, 10; at most 1000, with q 200. The applied one is echoed.")
    ] = None
    offset: wire.LenientInteger = None
    min_confidence: Annotated[
        str | None,
        Field(description="With q: leave out rows below this confidence, 0 to 100. An extension of this server."),
    ] = None
    reference_at: Annotated[
        str | None,
        Field(
            description="With q: when it is asked, ISO-8601; `last week` is read against it. Now, unless given. "
            "An extension of this server."
        ),
    ] = None
    trace: Annotated[
        str | None,
        Field(description="With q: true shows in each row why it was recalled. An extension of this server."),
    ] = None
    updated_from: Annotated[
        str | None, Field(description="Changed at or after this time. An extension of this server.")
    ] = None
    updated_to: Annotated[str | None, Field(description="Changed before this time. An extension of this server.")] = (
        None
    )

    def where(self, request: KitRequest, *, default_types: frozenset[MemoryType] | None) -> MemoryFilter:
        """The filter in the engine's words, within the caller's personal space. Raises `InvalidInput`."""
        return MemoryFilter(
            spaces=frozenset({request.principal.personal_space_id}),
            states=wire.states_of(self.state),
            memory_types=wire.memory_types_of(self.memory_type, default=default_types),
            tags=tuple(wire.comma_list(self.tags)),
            source=self.source or None,
            agent_id=self.agent_id or None,
            session_ids=frozenset({self.session_id}) if self.session_id else None,
            updated_from_at=wire.time_parameter("updated_from", self.updated_from),
            updated_until_at=wire.time_parameter("updated_to", self.updated_to),
        )


class MessagesQuery(BaseModel):
    """What `GET session-messages` can be asked; parameters nobody knows are ignored."""

    model_config = ConfigDict(extra="ignore")

    session_id: Annotated[list[str] | None, Field(description="Repeated, at most 100 different ones.")] = None
    limit_per_session: Annotated[str | None, Field(description="At most 500, which is the default.")] = None


@dataclass(frozen=True, slots=True)
class Routes:
    """The handlers; `context` holds the engine they call."""

    context: DialectContext

    # --- server and keys ---------------------------------------------------------------------------------

    async def healthz(self, _request: KitRequest) -> Response:
        """The process answers."""
        return json_response(wire.StatusAnswer(status="ok"))

    async def versionz(self, _request: KitRequest) -> Response:
        """What runs since when; `go_version` names our runtime, which is not Go."""
        settings = self.context.settings
        answer = wire.VersionAnswer(
            go_version=f"python{platform.python_version()}",
            started_at=wire.shown_time(settings.started_at),
            version=settings.version,
        )
        return json_response(answer)

    async def provision(self, request: KitRequest) -> Response:
        """A new key that opens a memory of its own; shown here once. Closed by a setting, and to forwarded requests."""
        settings = self.context.settings
        if not settings.is_provisioning_open:
            raise Forbidden("provisioning is closed")
        if is_forwarded(request.headers):
            raise Forbidden("provisioning is closed to forwarded requests")
        if settings.is_loopback and not (is_from_loopback(request.scope) and names_loopback_host(request.headers)):
            raise Forbidden("provisioning is open on this machine only")
        await count_stranger(request, self.context)
        made = await self.context.engine.keys.provision(name=NAME)
        return json_response(wire.IdAnswer(id=made.secret), 201)

    async def key_status(self, request: KitRequest) -> Response:
        """Whether the key opens an active memory."""
        secret = key_in_headers(request.headers)
        if secret is None:
            raise Unauthenticated("missing API key", key_is_missing=True)
        try:
            await self.context.engine.keys.authenticate(secret)
        except Unauthenticated:
            await count_stranger(request, self.context)
            raise NotFound("key", "") from None
        except Forbidden:
            return json_response(wire.StatusAnswer(status="inactive"))
        return json_response(wire.StatusAnswer(status="active"))

    # --- memories ----------------------------------------------------------------------------------------

    async def create(self, request: KitRequest, body: wire.CreateBody) -> Response:
        """Keeps one text word for word (`content`), or takes in a conversation (`messages`). Durable when answered."""
        body.check()
        return await (self._take_messages(request, body) if body.messages else self._keep(request, body))

    async def _keep(self, request: KitRequest, body: wire.CreateBody) -> Response:
        principal = request.principal
        is_pinned = body.memory_type is not None
        new = NewMemory(
            content=body.content or "",
            memory_type=MemoryType.PINNED if is_pinned else MemoryType.INSIGHT,
            tags=tuple(body.tags or ()),
            metadata=body.metadata,
            source=principal.agent_id,
            agent_id=body.agent_id or principal.agent_id,
            session_id=body.session_id,
        )
        written = await self.context.engine.write.memory(request.call(), new)
        self.context.metrics.memories_written(NAME, int(written.is_new))
        if is_pinned:
            return json_response(wire.shown_memory(written.memory), 201)
        return _stored(body, memory_id=written.memory.id)

    async def _take_messages(self, request: KitRequest, body: wire.CreateBody) -> Response:
        principal = request.principal
        messages = body.messages or []
        is_short = len(messages) <= _MESSAGES_AT_ONCE
        new = NewTurns(
            turns=_turns(messages) if is_short else await asyncio.to_thread(_turns, messages),
            session_id=body.session_id,
            agent_id=body.agent_id or principal.agent_id,
            source=principal.agent_id,
            tags=tuple(body.tags or ()),
            metadata=body.metadata,
            mode=IngestMode.RAW if body.mode == IngestMode.RAW.value else IngestMode.SMART,
        )
        ingested = await self.context.engine.ingest.messages(request.call(), new)
        count = len(ingested.memory_ids)
        self.context.metrics.memories_written(NAME, count)
        return _stored(
            body,
            memory_id=ingested.memory_ids[0] if count == 1 else None,
            session_id=None if body.session_id else ingested.session_id,
        )

    async def find(self, request: KitRequest, query: Annotated[ListQuery, Query()]) -> Response:
        """Recall with `q`, best first; without it a filtered list, newest change first."""
        if query.q is not None and query.q.strip():
            return await self._search(request, query, query.q)
        where = query.where(request, default_types=_NO_TURNS)
        limit = wire.limit_of(query.limit, largest=wire.MAX_LIST_LIMIT)
        offset = wire.offset_of(query.offset)
        page = await self.context.engine.read.list(
            request.call(), where, order=ListOrder.UPDATED_NEWEST, limit=limit, offset=offset
        )
        now = self.context.settings.clock.now()
        rows = [wire.shown_memory(memory, seen_at=now) for memory in page.memories]
        return json_response(wire.PageAnswer(memories=rows, total=page.total, limit=limit, offset=offset))

    async def _search(self, request: KitRequest, query: ListQuery, text: str) -> Response:
        limit = wire.limit_of(query.limit, largest=wire.MAX_SEARCH_LIMIT)
        offset = wire.offset_of(query.offset)
        cut = wire.relevance_cut(query.min_confidence, default=DEFAULT_RELEVANCE_CUT)
        recall = RecallRequest(
            text=text,
            where=query.where(request, default_types=None),
            limit=limit,
            offset=offset,
            min_relevance=cut,
            pinned_first_from=max(cut, DEFAULT_RELEVANCE_CUT),
            reference_at=wire.time_parameter("reference_at", query.reference_at),
            trace=wire.flag("trace", query.trace),
        )
        await count_query(request)
        clock = self.context.settings.clock
        started = clock.monotonic()
        page = await self.context.engine.recall.search(request.call(), recall)
        self.context.metrics.recall_answered(NAME, clock.monotonic() - started)
        now = clock.now()
        rows = [_shown_hit(hit, now, is_traced=recall.trace) for hit in page.hits]
        return json_response(wire.PageAnswer(memories=rows, total=page.total, limit=limit, offset=offset))

    async def get(self, request: KitRequest, id: str) -> Response:  # noqa: A002 - the name in mem9's paths
        """One memory."""
        memory = await self.context.engine.read.get(request.call(), wire.memory_id(id))
        return json_response(wire.shown_memory(memory), headers={"ETag": str(memory.version)})

    async def update(self, request: KitRequest, id: str, body: wire.UpdateBody) -> Response:  # noqa: A002
        """Changes content, tags or metadata; the version goes up by one. A stale `If-Match` is answered 409."""
        wire.check_content(body.content)
        expected = wire.expected_version(request.headers.get("if-match"))
        patch = MemoryPatch(
            content=body.content or None,
            tags=None if body.tags is None else tuple(body.tags),
            metadata=body.metadata,
            updated_by=request.principal.agent_id,
            expected_version=expected if self.context.settings.mem9_if_match == "strict" else None,
        )
        memory = await self.context.engine.write.update(request.call(), wire.memory_id(id), patch)
        return json_response(wire.shown_memory(memory), headers={"ETag": str(memory.version)})

    async def delete(self, request: KitRequest, id: str) -> Response:  # noqa: A002
        """Deletes one memory for good; again 204 when it was deleted before, 404 when there never was one."""
        await self.context.engine.write.delete(request.call(), wire.memory_id(id))
        return Response(status_code=204)

    async def delete_batch(self, request: KitRequest, body: wire.DeleteBody) -> Response:
        """Deletes up to 1000 memories; ids that are unknown or already deleted do not count."""
        if not body.ids:
            raise InvalidInput("ids", "required")
        known = [found for text in body.ids if (found := wire.memory_id_or_none(text)) is not None]
        deleted = await self.context.engine.write.delete_many(request.call(), known)
        return json_response(wire.DeletedAnswer(deleted=deleted))

    # --- imports -----------------------------------------------------------------------------------------

    async def start_import(self, request: KitRequest) -> Response:
        """Takes a file in and imports it in the background; the file is durable when this is answered."""
        principal = request.principal
        async with received_form(request, file_field="file", limit=_IMPORT_BYTES + _FORM_OVERHEAD) as form:
            if form.file is None:
                raise InvalidInput("file", "file required")
            file_format = _FILE_FORMATS.get(form.fields.get("file_type", ""))
            if file_format is None:
                raise InvalidInput("file_type", "must be session or memory")
            session_id = form.fields.get("session_id", "").strip() or None
            if file_format is ImportFormat.SESSION and session_id is None:
                await _require_session_id(form.file)
            job = await self.context.engine.transfer.start_import(
                request.call_with(form.digest),
                ImportRequest(
                    format=file_format,
                    file_name=form.file.name or "upload",
                    chunks=form.file.chunks(),
                    agent_id=_import_agent(form.fields.get("agent_id", "")),
                    default_agent_id=principal.agent_id,
                    session_id=session_id,
                    source=principal.agent_id,
                ),
            )
        return json_response(wire.QueuedAnswer(id=job.id, status="pending"), 202)

    async def list_imports(self, request: KitRequest) -> Response:
        """The import tasks of the last 30 days, newest first."""
        jobs = await self.context.engine.transfer.list_imports(request.call(), limit=_LISTED_TASKS)
        tasks = [_task(job) for job in jobs]
        return json_response(wire.TasksAnswer(status=wire.aggregate_status(tasks), tasks=tasks))

    async def get_import(self, request: KitRequest, id: str) -> Response:  # noqa: A002
        """One import task, with the first 100 items that could not be imported."""
        job = await self.context.engine.transfer.get_import(request.call(), JobId(wire.memory_id(id)))
        task = _task(job)
        if job.result.get("errors"):
            task["errors"] = job.result["errors"]
        return json_response(task)

    # --- session messages --------------------------------------------------------------------------------

    async def session_messages(
        self,
        request: KitRequest,
        query: Annotated[MessagesQuery, Query()],
    ) -> Response:
        """The captured messages of sessions, each session's first ones."""
        wanted = list(dict.fromkeys(name for name in query.session_id or () if name.strip()))
        if not wanted:
            raise InvalidInput("session_id", "at least one session_id required")
        if len(wanted) > wire.MAX_SESSION_IDS:
            raise InvalidInput("session_id", f"too many session_ids: maximum is {wire.MAX_SESSION_IDS}")
        limit = wire.rows_per_session(query.limit_per_session)
        memories = await self.context.engine.read.session_messages(
            request.call(),
            wanted,
            limit_per_session=limit,
            spaces=frozenset({request.principal.personal_space_id}),
        )
        rows = [wire.shown_message(memory, memory.turn) for memory in memories if memory.turn is not None]
        return json_response(wire.MessagesAnswer(messages=rows, limit_per_session=limit))


def _turns(messages: Sequence[wire.MessageBody]) -> tuple[NewTurn, ...]:
    return tuple(message.turn(position) for position, message in enumerate(messages))


def _shown_hit(hit: RecallHit, now: datetime, *, is_traced: bool) -> wire.MemoryAnswer:
    row = wire.shown_memory(hit.memory, seen_at=now)
    row["score"] = hit.score
    row["confidence"] = wire.confidence_of(hit.relevance)
    if is_traced:
        row["trace"] = shown_trace(hit)
    return row


def _stored(body: wire.CreateBody, *, memory_id: str | None, session_id: str | None = None) -> Response:
    answer = wire.WrittenAnswer(status="ok" if body.sync else "accepted")
    if memory_id is not None:
        answer["id"] = memory_id
    if session_id is not None:
        answer["session_id"] = session_id
    return json_response(answer, 200 if body.sync else 202)


async def _require_session_id(file: UploadedFile) -> None:
    """A file with messages names their session itself. Raises `InvalidInput` otherwise."""
    found = await survey(file.chunks, ImportFormat.SESSION)
    if found.usable and label_of(found.members, "session_id") is None:
        raise InvalidInput("session_id", "required for session files that name none themselves")


def _import_agent(text: str) -> str | None:
    """The agent an import names. Raises `InvalidInput` for names that could be taken for paths."""
    agent = text.strip()
    if len(agent) > MAX_AGENT_CHARACTERS:
        raise InvalidInput("agent_id", f"too long (max {MAX_AGENT_CHARACTERS})")
    if "/" in agent or "\\" in agent or ".." in agent:
        raise InvalidInput("agent_id", "must not contain /, \\ or ..")
    return agent or None


def _task(job: Job) -> wire.TaskAnswer:
    answer = wire.TaskAnswer(
        id=job.id,
        file=order_of(job).file_name,
        status=wire.TASK_STATUS[job.state],
        total=job.progress_total,
        done=job.progress_done,
    )
    if job.error:
        answer["error"] = job.error
    return answer


_AGENT_PARAMETER = {
    "name": AGENT_HEADER,
    "in": "header",
    "schema": {"type": "string", "maxLength": MAX_AGENT_CHARACTERS},
    "description": "The agent on whose behalf the request is made.",
}
_REPEAT_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Makes a repeated request harmless: it is answered from what the first one did. An extension.",
}
_GUARD_PARAMETER = {
    "name": "If-Match",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The version to change, such as 3; a stale one is answered 409.",
}
_KEY_PARAMETER = {
    "name": "tenantID",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "The API key.",
}
_IMPORT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "file_type"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "At most 50 MiB."},
                    "file_type": {"type": "string", "enum": list(_FILE_FORMATS)},
                    "agent_id": {"type": "string", "maxLength": MAX_AGENT_CHARACTERS},
                    "session_id": {"type": "string", "description": "For session files that name none themselves."},
                },
            }
        }
    },
}


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the route table."""

    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]
    status: int
    answer: object | None
    also: Mapping[int, object] = field(default_factory=dict)
    parameters: tuple[Mapping[str, object], ...] = ()
    body: Mapping[str, object] | None = None


def _server_rows(routes: Routes) -> tuple[_Row, ...]:
    return (
        _Row("GET", "/healthz", routes.healthz, 200, wire.StatusAnswer),
        _Row("GET", "/versionz", routes.versionz, 200, wire.VersionAnswer),
        _Row("POST", "/v1alpha1/mem9s", routes.provision, 201, wire.IdAnswer),
        _Row("GET", "/v1alpha2/status", routes.key_status, 200, wire.StatusAnswer),
        _Row(
            "POST",
            f"{_HEADER_BASE}/memories/batch-delete",
            routes.delete_batch,
            200,
            wire.DeletedAnswer,
            parameters=(_AGENT_PARAMETER, _REPEAT_PARAMETER),
        ),
    )


def _memory_rows(routes: Routes) -> tuple[_Row, ...]:
    writing = (_AGENT_PARAMETER, _REPEAT_PARAMETER)
    reading = (_AGENT_PARAMETER,)
    created = {200: wire.WrittenAnswer, 201: wire.MemoryAnswer}
    return (
        _Row("POST", "/memories", routes.create, 202, wire.WrittenAnswer, created, writing),
        _Row("GET", "/memories", routes.find, 200, wire.PageAnswer, parameters=reading),
        _Row("GET", "/memories/{id}", routes.get, 200, wire.MemoryAnswer, parameters=reading),
        _Row("PUT", "/memories/{id}", routes.update, 200, wire.MemoryAnswer, parameters=(*writing, _GUARD_PARAMETER)),
        _Row("DELETE", "/memories/{id}", routes.delete, 204, None, parameters=writing),
        _Row("POST", "/imports", routes.start_import, 202, wire.QueuedAnswer, parameters=writing, body=_IMPORT_BODY),
        _Row("GET", "/imports", routes.list_imports, 200, wire.TasksAnswer, parameters=reading),
        _Row("GET", "/imports/{id}", routes.get_import, 200, wire.TaskAnswer, parameters=reading),
        _Row("GET", "/session-messages", routes.session_messages, 200, wire.MessagesAnswer, parameters=reading),
    )


def _add(router: APIRouter, row: _Row, base: str = "") -> None:
    parameters = [dict(each) for each in row.parameters]
    if base == _PATH_BASE:
        parameters.insert(0, dict(_KEY_PARAMETER))
    extra: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if row.body is not None:
        extra["requestBody"] = row.body
    responses: dict[int | str, dict[str, Any]] = {status: {"model": model} for status, model in row.also.items()}
    if row.answer is not None:
        responses[row.status] = {"model": row.answer}
    failed: dict[str, Any] = {"model": wire.ErrorAnswer, "description": "The request was refused."}
    responses |= {"4XX": failed, "5XX": failed | {"description": "The server failed or cannot serve now."}}
    router.add_api_route(
        base + row.path,
        row.handler,
        methods=[row.method],
        status_code=row.status,
        responses=responses,
        response_model=None,
        openapi_extra=extra,
    )


def add_routes(router: APIRouter, context: DialectContext) -> None:
    """Every route of mem9 is on the router, the ones that need a key under both of its addresses."""
    routes = Routes(context)
    for row in _server_rows(routes):
        _add(router, row)
    for base in (_HEADER_BASE, _PATH_BASE):
        for row in _memory_rows(routes):
            _add(router, row, base)
