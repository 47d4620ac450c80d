"""mnemoverse's routes: each translates a request into calls of the engine, and the answer back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from polymem.domain.access import Action
from polymem.domain.model import Association, Memory, SpaceId
from polymem.engine.requests import Remembered
from polymem.errors import Forbidden, NotFound
from polymem.http.auth import AGENT_HEADER, MAX_AGENT_CHARACTERS
from polymem.http.dialects.mnemoverse import answers, wire
from polymem.http.kit import DialectContext, KitRequest, count_query, json_body, json_response
from polymem.ports.changes import Deleted

NAME = "mnemoverse"
BASE = "/api/v1"
OPEN_ROUTES = frozenset({("GET", f"{BASE}/health"), ("GET", f"{BASE}/health/ready")})
_MEMORY = f"{BASE}/memory"
_DOMAIN = f"{_MEMORY}/domain/"
# Questions of a batch that are answered at the same time: they share the model's batches.
_READS_AT_ONCE = 8
_LINES = "application/x-ndjson"
_Page = tuple[tuple[Memory, tuple[Association, ...]], ...]


@dataclass(frozen=True, slots=True)
class Writing:
    """What makes, teaches and removes atoms; `context` holds the engine."""

    context: DialectContext

    async def write(self, request: KitRequest, body: wire.WriteBody) -> Response:
        """Keeps one text if it is news; durable and findable when answered."""
        new = body.new_atom(request.principal.agent_id)
        outcome = await self.context.engine.remember.one(request.call(), new)
        self.context.metrics.memories_written(NAME, int(isinstance(outcome, Remembered) and outcome.is_new))
        return json_response(answers.write_answer(outcome))

    async def write_batch(self, request: KitRequest, body: wire.WriteBatchBody) -> Response:
        """Keeps each text that is news; an item that is wrong gets its error and stops no other."""
        items = body.atoms(request.principal.agent_id)
        news = [item for item in items if not isinstance(item, str)]
        outcomes = iter(await self.context.engine.remember.many(request.call(), news) if news else ())
        results = [
            answers.write_result(index, item if isinstance(item, str) else next(outcomes))
            for index, item in enumerate(items)
        ]
        stored = sum(result["stored"] for result in results)
        self.context.metrics.memories_written(NAME, stored)
        return json_response(
            answers.WriteBatchAnswer(total_count=len(results), stored_count=stored, results=results),
        )

    async def feedback(self, request: KitRequest, body: wire.FeedbackBody) -> Response:
        """Every atom listed learns how it went, and so do the associations of its concepts."""
        given = await self.context.engine.feedback.give(request.call(), body.feedback())
        return json_response(
            answers.FeedbackAnswer(
                updated_count=given.updated, avg_valence=given.average_valence, coactivation_edges=given.coactivated
            )
        )

    async def consolidate(self, request: KitRequest, body: wire.ConsolidateBody) -> Response:
        """Similar atoms of a domain become prototypes, rare ones are protected; answered when it is done."""
        done = await self.context.engine.consolidate.domain(request.call(), body.domain)
        return json_response(answers.consolidate_answer(body.domain or wire.GENERAL, done))

    async def delete(self, request: KitRequest, atom_id: str) -> Response:
        """The atom is gone for good; 0 when there was none."""
        known = wire.memory_id_or_none(atom_id)
        deleted = 0
        if known is not None:
            try:
                outcome = await self.context.engine.write.delete(request.call(), known)
            except NotFound:
                pass
            else:
                deleted = int(isinstance(outcome, Deleted))
        return json_response(answers.DeletedAtomAnswer(deleted=deleted, atom_id=known or atom_id))

    async def restore(self, request: KitRequest, atom_id: str) -> Response:
        """A prototype is taken apart: its sources are active again. An extension of this server."""
        known = wire.memory_id(atom_id)
        restored = await self.context.engine.consolidate.restore(request.call(), known)
        return json_response(answers.RestoredAnswer(restored=restored, atom_id=known))

    async def delete_domain(self, request: KitRequest, domain: str) -> Response:
        """Every atom of the domain is gone for good."""
        name = _name_in_path(request, domain)
        deleted = await self.context.engine.spaces.wipe(request.call(), name)
        return json_response(answers.DeletedDomainAnswer(deleted=deleted, domain=name))

    async def reset(self, request: KitRequest) -> Response:
        """Every atom that the key may delete is gone for good; refused unless a setting allows it."""
        if not self.context.settings.is_reset_enabled:
            raise Forbidden("reset is not enabled on this server")
        deleted = await self.context.engine.spaces.reset(request.call())
        return json_response(answers.DeletedAnswer(deleted=deleted))


def _name_in_path(request: KitRequest, domain: str) -> str:
    """The domain as the caller encoded it: a slash at its end is its own only when it was encoded.

    Raises `NotFound` for no name at all.
    """
    raw: bytes = request.scope.get("raw_path") or b""
    _, found, last = raw.partition(_DOMAIN.encode())
    name = unquote_to_bytes(last.removesuffix(b"/")).decode() if found else domain
    if not name:
        raise NotFound("domain", name)
    return name


@dataclass(frozen=True, slots=True)
class Reading:
    """What finds and shows atoms; `context` holds the engine."""

    context: DialectContext

    async def read(self, request: KitRequest, body: wire.ReadBody) -> Response:
        """The atoms that answer a question, best first."""
        await count_query(request)
        return json_response(await self._answer(request, body))

    async def read_batch(self, request: KitRequest, body: wire.ReadBatchBody) -> Response:
        """As many answers as questions, in their order; counts as one query."""
        await count_query(request)
        results: list[answers.ReadAnswer] = []
        for start in range(0, len(body.queries), _READS_AT_ONCE):
            part = body.queries[start : start + _READS_AT_ONCE]
            results += await asyncio.gather(*(self._answer(request, query) for query in part))
        return json_response(answers.ReadBatchAnswer(results=results))

    async def query(self, request: KitRequest, body: wire.QueryBody) -> Response:
        """As read, over several domains and under conditions on the metadata."""
        await count_query(request)
        return json_response(await self._answer(request, body))

    async def _answer(self, request: KitRequest, body: wire.ReadBody) -> answers.ReadAnswer:
        call = request.call()
        domains = await self._domains(request, body.domain_names())
        asked = body.request(frozenset(domains))
        clock = self.context.settings.clock
        started = clock.monotonic()
        found = await self.context.engine.recollect.search(call, asked)
        seconds = clock.monotonic() - started
        self.context.metrics.recall_answered(NAME, seconds)
        return answers.read_answer(found, domains, seconds)

    async def _domains(self, request: KitRequest, names: Sequence[str]) -> Mapping[SpaceId, str]:
        """The spaces of these names with the names, without unknown ones; of no name: all that may be read."""
        spaces = self.context.engine.spaces
        if not names:
            return await spaces.names(request.call())
        found = {name: await spaces.find(request.call(), name, Action.READ) for name in dict.fromkeys(names)}
        return {space_id: name for name, space_id in found.items() if space_id is not None}

    async def recent(self, request: KitRequest, body: wire.RecentBody) -> Response:
        """The newest atoms first, page by page, nothing left out and nothing twice whatever is written meanwhile."""
        position = body.position()
        domains = await self._domains(request, [body.domain] if body.domain else [])
        memories = await self.context.engine.read.feed(
            request.call(),
            body.where(frozenset(domains)),
            after=position,
            limit=body.limit + 1,
            with_superseded=body.include_history,
        )
        shown = memories[: body.limit]
        return json_response(
            answers.RecentAnswer(
                items=[answers.feed_item(memory, domains[memory.space_id]) for memory in shown],
                next_cursor=wire.cursor_of(shown[-1]) if len(memories) > len(shown) else None,
            )
        )

    async def graph(self, request: KitRequest, body: wire.GraphBody) -> Response:
        """The associations around some concepts, heaviest first."""
        domains = await self._domains(request, [body.domain] if body.domain else [])
        graph = await self.context.engine.associate.graph(request.call(), body.request(frozenset(domains)))
        return json_response(answers.graph_answer(graph))

    async def get(self, request: KitRequest, atom_id: str) -> Response:
        """One atom, in whatever state it is."""
        memory = await self.context.engine.read.get(request.call(), wire.memory_id(atom_id))
        return await self._shown(request, memory)

    async def by_external_ref(self, request: KitRequest, body: wire.ReferenceBody) -> Response:
        """The atom that was written under this reference."""
        memory = await self.context.engine.read.by_external_ref(request.call(), body.external_ref)
        return await self._shown(request, memory)

    async def _shown(self, request: KitRequest, memory: Memory) -> Response:
        domains = await self.context.engine.spaces.names(request.call())
        return json_response(answers.atom(memory, domains[memory.space_id]))

    async def stats(self, request: KitRequest) -> Response:
        """Counts over the active atoms."""
        return json_response(answers.stats_answer(await self.context.engine.read.statistics(request.call())))

    async def domains(self, request: KitRequest) -> Response:
        """The domains that hold active atoms, as in the statistics."""
        counted = await self.context.engine.read.statistics(request.call())
        return json_response(answers.DomainsAnswer(domains=list(counted.domains)))

    async def rooms(self, request: KitRequest) -> Response:  # noqa: ARG002 - admitted like any other request
        """Shared rooms: this server has none."""
        return json_response([])

    async def export(self, request: KitRequest) -> Response:
        """Every atom that the key may read and delete, in any state, one a line; a broken line of them has failed.

        Made page by page as it is read. What fails before the first page is answered as any failure.
        """
        pages = self.context.engine.read.export(request.call())
        first = await anext(pages, None)
        return StreamingResponse(self._lines(request, first or (), pages), media_type=_LINES)

    async def _lines(self, request: KitRequest, first: _Page, others: AsyncIterator[_Page]) -> AsyncIterator[bytes]:
        yield await self._lines_of(request, first)
        async for page in others:
            yield await self._lines_of(request, page)

    async def _lines_of(self, request: KitRequest, page: _Page) -> bytes:
        # Asked for each page: a domain may have been made since the last one.
        domains = await self.context.engine.spaces.names(request.call())
        return b"".join(
            json_body(answers.exported(memory, domains[memory.space_id], owned)) + b"\n" for memory, owned in page
        )

    # --- health ------------------------------------------------------------------------------------------

    async def health(self, request: KitRequest) -> Response:  # noqa: ARG002 - whatever is asked
        """The process answers; nothing else is looked at."""
        version = self.context.settings.version
        return json_response(answers.HealthAnswer(status="ok", database=False, version=version))

    async def ready(self, request: KitRequest) -> Response:  # noqa: ARG002 - whatever is asked
        """Which parts of the server work; 200 whatever they say."""
        engine = self.context.engine
        health = await engine.health()
        checks = answers.ChecksAnswer(
            database=health.is_serving, engine=True, embedding=engine.embedder.problem is None
        )
        is_ready = checks["database"] and checks["embedding"]
        return json_response(answers.ReadyAnswer(ready=is_ready, checks=checks, version=self.context.settings.version))


# --- the route table -------------------------------------------------------------------------------------

_Handler = Callable[..., Awaitable[Response]]
_REPEAT_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Makes a repeated request harmless: it is answered from what the first one did. An extension.",
}
_AGENT_PARAMETER = {
    "name": AGENT_HEADER,
    "in": "header",
    "schema": {"type": "string", "maxLength": MAX_AGENT_CHARACTERS},
    "description": "The agent on whose behalf the request is made. An extension.",
}
_EXPORT_BODY = {_LINES: {"schema": {"type": "string", "description": "One atom a line."}}}


def _read_rows(reading: Reading) -> tuple[tuple[str, str, _Handler, Any], ...]:
    """Method, path, handler and model of the answer of what only looks."""
    return (
        ("GET", f"{BASE}/health", reading.health, answers.HealthAnswer),
        ("GET", f"{BASE}/health/ready", reading.ready, answers.ReadyAnswer),
        ("POST", f"{_MEMORY}/read", reading.read, answers.ReadAnswer),
        ("POST", f"{_MEMORY}/read-batch", reading.read_batch, answers.ReadBatchAnswer),
        ("POST", f"{_MEMORY}/query", reading.query, answers.ReadAnswer),
        ("POST", f"{_MEMORY}/recent", reading.recent, answers.RecentAnswer),
        ("POST", f"{_MEMORY}/graph", reading.graph, answers.GraphAnswer),
        ("GET", f"{_MEMORY}/atoms/{{atom_id}}", reading.get, answers.AtomAnswer),
        ("POST", f"{_MEMORY}/atoms/by-external-ref", reading.by_external_ref, answers.AtomAnswer),
        ("GET", f"{_MEMORY}/stats", reading.stats, answers.StatsAnswer),
        ("GET", f"{_MEMORY}/domains", reading.domains, answers.DomainsAnswer),
        ("GET", f"{_MEMORY}/rooms", reading.rooms, list[dict[str, Any]]),
        ("GET", f"{_MEMORY}/export", reading.export, None),
    )


def _write_rows(writing: Writing) -> tuple[tuple[str, str, _Handler, Any], ...]:
    """Method, path, handler and model of the answer of what changes something."""
    return (
        ("POST", f"{_MEMORY}/write", writing.write, answers.WriteAnswer),
        ("POST", f"{_MEMORY}/write-batch", writing.write_batch, answers.WriteBatchAnswer),
        ("POST", f"{_MEMORY}/feedback", writing.feedback, answers.FeedbackAnswer),
        ("POST", f"{_MEMORY}/consolidate", writing.consolidate, answers.ConsolidateAnswer),
        ("DELETE", f"{_MEMORY}/atoms/{{atom_id}}", writing.delete, answers.DeletedAtomAnswer),
        ("POST", f"{_MEMORY}/atoms/{{atom_id}}/restore", writing.restore, answers.RestoredAnswer),
        ("DELETE", f"{_DOMAIN}{{domain:path}}", writing.delete_domain, answers.DeletedDomainAnswer),
        ("DELETE", f"{_MEMORY}/reset", writing.reset, answers.DeletedAnswer),
    )


def add_routes(router: APIRouter, context: DialectContext) -> None:
    """Every route of mnemoverse is on the router."""
    failed: dict[str, Any] = {"model": answers.ErrorAnswer, "description": "The request was refused."}
    failures: dict[int | str, dict[str, Any]] = {
        "4XX": failed,
        "5XX": failed | {"description": "The server failed or cannot serve now."},
    }
    for rows, parameters in (
        (_read_rows(Reading(context)), ()),
        (_write_rows(Writing(context)), (_AGENT_PARAMETER, _REPEAT_PARAMETER)),
    ):
        for method, path, handler, answer in rows:
            done = {"content": _EXPORT_BODY} if answer is None else {"model": answer}
            router.add_api_route(
                path,
                handler,
                methods=[method],
                responses={200: done, **failures},
                response_model=None,
                openapi_extra={"parameters": [dict(each) for each in parameters]} if parameters else None,
            )
