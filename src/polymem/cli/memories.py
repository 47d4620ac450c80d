"""`polymem write` and `polymem recall`: memories from the shell, through the running server or without one."""

import asyncio
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, cast

import typer

from polymem.bootstrap import Uuid7Ids, database_place, first_key, open_engine, read_key, read_server
from polymem.cli.options import AsJson, Config, DataDir, settings_from, time_in
from polymem.cli.output import moment, print_json, print_rows, say
from polymem.config import Settings
from polymem.domain.model import Call, JsonValue
from polymem.domain.query import MemoryFilter, RecallHit, RecallRequest
from polymem.domain.scoring import DEFAULT_RELEVANCE_CUT
from polymem.engine.engine import Engine
from polymem.engine.requests import NewMemory
from polymem.errors import Unauthenticated

if TYPE_CHECKING:
    from polymem.cli.attach import ServerClient

Row = dict[str, JsonValue]
_EMPTY = "nothing found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What `recall` was asked: `at` is when, None for now; `is_explained` wants a `trace` in each row."""

    text: str
    limit: int
    at: datetime | None
    is_explained: bool


def add_to(app: typer.Typer) -> None:
    """The app has both commands."""
    app.command("write")(_write)
    app.command("recall")(_recall)


def _write(
    *,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to remember; - reads standard input.")],
    tags: Annotated[
        str, typer.Option("--tags", metavar="LIST", help="Tags, separated by commas.", show_default=False)
    ] = "",
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Remember a text and print its id."""
    settings = settings_from(data_dir, config)
    content = sys.stdin.read() if text == "-" else text
    memory_id = asyncio.run(_written(settings, content, [tag.strip() for tag in tags.split(",") if tag.strip()]))
    if as_json:
        print_json({"id": memory_id})
    else:
        say(memory_id)


def _recall(
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in your own words.")],
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=200, help="Memories at most.")] = 5,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="DATE",
            help="When the question is asked, ISO 8601: `last week` is read against it. [default: now]",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show why each was found, and what its score is made of.")
    ] = False,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Find memories, best first."""
    settings = settings_from(data_dir, config)
    asked_at = None if at is None else time_in("at", at)
    question = Question(text=query, limit=limit, at=asked_at, is_explained=explain)
    rows = asyncio.run(_recalled(settings, question))
    if explain and not as_json:
        from polymem.cli.explain import print_explanations  # noqa: PLC0415 - only this needs rich at once

        print_explanations(rows, empty=_EMPTY)
    else:
        print_rows(rows, as_json=as_json, empty=_EMPTY, columns=("confidence", "created_at", "content"))


async def _written(settings: Settings, content: str, tags: list[str]) -> str:
    server = await _server(settings)
    if server is not None:
        return await server.write(content, tags)
    async with open_engine(settings, runs_jobs=settings.database_url is None) as engine:
        written = await engine.write.memory(await _call(engine, settings), NewMemory(content=content, tags=tuple(tags)))
        return written.memory.id


async def _recalled(settings: Settings, question: Question) -> list[Row]:
    server = await _server(settings)
    if server is not None:
        found = await server.recall(
            question.text, limit=question.limit, at=moment(question.at), is_explained=question.is_explained
        )
        return [_row(each, is_explained=question.is_explained) for each in found]
    async with open_engine(settings, runs_jobs=settings.database_url is None) as engine:
        call = await _call(engine, settings)
        request = RecallRequest(
            text=question.text,
            where=MemoryFilter(spaces=frozenset({call.principal.personal_space_id})),
            limit=question.limit,
            min_relevance=DEFAULT_RELEVANCE_CUT,
            reference_at=question.at,
            trace=question.is_explained,
        )
        page = await engine.recall.search(call, request)
        return [_hit_row(hit, is_explained=question.is_explained) for hit in page.hits]


def _hit_row(hit: RecallHit, *, is_explained: bool) -> Row:
    row: Row = {
        "id": hit.memory.id,
        "confidence": round(hit.relevance * 100),
        "memory_type": hit.memory.memory_type.value,
        "created_at": moment(hit.memory.created_at),
        "content": hit.memory.content,
    }
    if is_explained:
        from polymem.http.dialects.mem9.trace import shown_trace  # noqa: PLC0415 - brings the web stack along

        row["trace"] = cast("JsonValue", shown_trace(hit))
    return row


async def _server(settings: Settings) -> "ServerClient | None":
    """The server that answers for the settings' database, or None: then the command opens the database itself."""
    record = read_server(settings.data_dir)
    if record is None or record.database != database_place(settings):
        return None
    from polymem.cli.attach import ServerClient, is_answering  # noqa: PLC0415 - see there

    return ServerClient(record, _secret(settings)) if await is_answering(record) else None


def _row(found: dict[str, JsonValue], *, is_explained: bool) -> Row:
    names = ("id", "confidence", "memory_type", "created_at", "content")
    row = {name: found.get(name) for name in names}
    return row | {"trace": found["trace"]} if is_explained else row


def _secret(settings: Settings) -> str:
    secret = settings.key or read_key(settings.data_dir)
    if secret is None:
        raise Unauthenticated(f"no key: set POLYMEM_KEY, or put one into {settings.data_dir / 'key'}")
    return secret


async def _call(engine: Engine, settings: Settings) -> Call:
    """The owner of the data directory's key calls; a new database gets its first key here as in a first start."""
    await first_key(engine, settings)
    principal = await engine.keys.authenticate(_secret(settings))
    return Call(principal=principal, request_id=Uuid7Ids().new_id())
