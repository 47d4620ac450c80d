"""mem9's bodies and parameters, and their translation to and from the engine's words."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

from polymem.domain.model import ContentType, JobState, JsonValue, Memory, MemoryId, MemoryState, MemoryType, Turn
from polymem.engine.requests import NewTurn
from polymem.errors import InvalidInput, NotFound
from polymem.http.auth import MAX_AGENT_CHARACTERS
from polymem.http.dialects.mem9.trace import TraceAnswer

MAX_CONTENT_BYTES = 50_000
MAX_TURN_BYTES = 1_000_000
MAX_TURNS = 10_000
MAX_TAGS = 20
MAX_LABEL_CHARACTERS = 255
MAX_ROLE_CHARACTERS = 64
MAX_DELETE_BATCH = 1000
MAX_SESSION_IDS = 100
MAX_SESSION_ROWS = 500
MAX_SEQ = 2**31 - 1
DEFAULT_LIMIT = 10
MAX_LIST_LIMIT = 1000
MAX_SEARCH_LIMIT = 200
MAX_OFFSET = 1_000_000
_MAX_CONFIDENCE = 100
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VERSION = re.compile(r'"([+-]?[0-9]+)"|([+-]?[0-9]+)')
_MOST_DIGITS = 18
_LAST_SAFE_YEAR = 9998


# --- requests --------------------------------------------------------------------------------------------


def parse_time(text: str) -> datetime:
    """An ISO-8601 time in UTC; without an offset it is taken as UTC. Raises `ValueError`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be an ISO-8601 time") from None
    if not 1 < moment.year <= _LAST_SAFE_YEAR:
        raise ValueError("must be a year from 2 to 9998")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _absent_when_empty(value: object) -> object:
    return None if value in ("", []) else value


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _check_time(text: str) -> str:
    parse_time(text)
    return text


def _check_parts(value: Any) -> Any:
    """A message's content: a text, or a list of typed parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in value):
            raise ValueError("every part must be an object with a type")
        return value
    raise ValueError("must be a string or a list of parts")


_LabelText = Annotated[str, Field(max_length=MAX_LABEL_CHARACTERS), AfterValidator(_not_blank)]
_AgentText = Annotated[str, Field(max_length=MAX_AGENT_CHARACTERS), AfterValidator(_not_blank)]
_Label = Annotated[_LabelText | None, BeforeValidator(_absent_when_empty)]
_Agent = Annotated[_AgentText | None, BeforeValidator(_absent_when_empty)]
_Text = Annotated[str | None, BeforeValidator(_absent_when_empty)]
_Tag = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_not_blank)]
_Tags = Annotated[list[_Tag], Field(max_length=MAX_TAGS)] | None
_Parts = Annotated[
    Any,
    AfterValidator(_check_parts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]},
                },
            ]
        }
    ),
]
_Metadata = Annotated[Any, Field(description="Any JSON value."), WithJsonSchema({})]


class _Body(BaseModel):
    """A body with strict types; fields nobody knows are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class MessageBody(_Body):
    """One message of a conversation."""

    role: Annotated[str, Field(min_length=1, max_length=MAX_ROLE_CHARACTERS), AfterValidator(_not_blank)]
    content: Annotated[_Parts, Field(description='A text, or a list of parts such as {"type":"text","text":"..."}.')]
    seq: Annotated[int | None, Field(ge=0, le=MAX_SEQ, description="Its place in the session.")] = None
    created_at: Annotated[
        Annotated[str, AfterValidator(_check_time)] | None,
        BeforeValidator(_absent_when_empty),
        Field(description="When it was said, ISO-8601. An extension of this server."),
    ] = None

    def turn(self, position: int) -> NewTurn:
        """The message as the engine takes it. Raises `InvalidInput` when it is too long."""
        content, content_type = _text_of(self.content)
        if len(content.encode()) > MAX_TURN_BYTES:
            raise InvalidInput(f"messages[{position}].content", f"too long (max {MAX_TURN_BYTES})")
        return NewTurn(
            role=self.role,
            content=content,
            content_type=content_type,
            seq=self.seq,
            created_at=parse_time(self.created_at) if self.created_at else None,
        )


def _text_of(content: JsonValue) -> tuple[str, ContentType]:
    """A message's content as one text: its text parts joined by lines; other parts are kept as JSON."""
    if isinstance(content, str):
        return content, ContentType.TEXT
    texts = [part.get("text") for part in _parts(content) if part["type"] == "text"]
    known = [text for text in texts if isinstance(text, str)]
    joined = "\n".join(known)
    if len(known) == len(_parts(content)):
        return joined, ContentType.TEXT
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")), ContentType.JSON


def _parts(content: JsonValue) -> list[dict[str, JsonValue]]:
    parts: list[dict[str, JsonValue]] = content  # type: ignore[assignment] # `_check_parts` has seen it
    return parts


_Messages = Annotated[list[MessageBody], Field(max_length=MAX_TURNS)]


class CreateBody(_Body):
    """A memory to keep (`content`), or messages to take in (`messages`); not both."""

    content: Annotated[_Text, Field(description="Text of the memory, at most 50,000 bytes.")] = None
    memory_type: Annotated[
        Literal["pinned"] | None, BeforeValidator(_absent_when_empty), Field(description="Only with `content`.")
    ] = None
    messages: Annotated[_Messages | None, BeforeValidator(_absent_when_empty)] = None
    mode: Annotated[_Text, Field(description="`raw` or `smart`, only with `messages`; others count as smart.")] = None
    agent_id: _Agent = None
    session_id: _Label = None
    tags: _Tags = None
    metadata: _Metadata = None
    sync: Annotated[bool | None, Field(description="True: 200 when done. Else 202.")] = None

    def check(self) -> None:
        """The fields go together. Raises `InvalidInput`."""
        has_content = self.content is not None and bool(self.content.strip())
        if has_content and self.messages:
            raise InvalidInput("body", "provide either content or messages, not both")
        if not has_content and not self.messages:
            raise InvalidInput("content", "content or messages required")
        if has_content and self.mode:
            raise InvalidInput("body", "content mode does not accept mode")
        if self.messages and self.memory_type:
            raise InvalidInput("memory_type", "memory_type is only allowed with content, not messages")
        check_content(self.content)


class UpdateBody(_Body):
    """What to change; an empty `content` and what is null or absent stay as they are."""

    content: _Text = None
    tags: Annotated[_Tags, Field(description="The new list of tags.")] = None
    metadata: _Metadata = None


class DeleteBody(_Body):
    """Ids of memories to delete."""

    ids: Annotated[
        list[Annotated[str, Field(max_length=MAX_LABEL_CHARACTERS)]] | None, Field(max_length=MAX_DELETE_BATCH)
    ] = None


def check_content(content: str | None) -> None:
    """A memory's text is within mem9's limit. Raises `InvalidInput`."""
    if content is not None and len(content.encode()) > MAX_CONTENT_BYTES:
        raise InvalidInput("content", f"too long (max {MAX_CONTENT_BYTES})")


def memory_id(text: str) -> MemoryId:
    """The id as stored. Raises `NotFound` for what we never render as one."""
    known = memory_id_or_none(text)
    if known is None:
        raise NotFound("memory", text)
    return known


def memory_id_or_none(text: str) -> MemoryId | None:
    """The id as stored, or None for what we never render as one."""
    return MemoryId(text.lower()) if _ID.fullmatch(text) else None


def expected_version(if_match: str | None) -> int | None:
    """The version an `If-Match` header guards; None without a header or for `*`. Raises `InvalidInput`."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = _VERSION.fullmatch(if_match.strip())
    if match is None:
        raise InvalidInput("If-Match", "must be a version number or *")
    return int((match.group(1) or match.group(2))[:_MOST_DIGITS])


# --- query parameters ------------------------------------------------------------------------------------


def _integer_or_none(value: object) -> int | None:
    text = str(value).strip()
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        return None
    # Digits beyond any limit of ours change nothing, and very many would take long to read.
    return int(text[:_MOST_DIGITS])


LenientInteger = Annotated[int | None, BeforeValidator(_integer_or_none), WithJsonSchema({"type": "integer"})]
_STATES: dict[str, frozenset[MemoryState] | None] = {
    "active": frozenset({MemoryState.ACTIVE, MemoryState.COOLING}),
    "paused": frozenset({MemoryState.PAUSED, MemoryState.PROCESSING}),
    "archived": frozenset({MemoryState.ARCHIVED}),
    "deleted": frozenset(),
    "all": None,
}
_FLAGS = {None: False, "": False, "false": False, "true": True}
_SHOWN_STATE = {
    MemoryState.PROCESSING: "paused",
    MemoryState.ACTIVE: "active",
    MemoryState.PAUSED: "paused",
    MemoryState.COOLING: "active",
    MemoryState.ARCHIVED: "archived",
}


def comma_list(text: str | None) -> list[str]:
    """The parts of a comma list, without blanks and empty ones."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def states_of(text: str | None) -> frozenset[MemoryState] | None:
    """The states a `state` filter names; None for any. Raises `InvalidInput`."""
    wanted: set[MemoryState] = set()
    for name in comma_list(text) or ["active"]:
        if name not in _STATES:
            raise InvalidInput("state", f"must be {', '.join(_STATES)}")
        states = _STATES[name]
        if states is None:
            return None
        wanted |= states
    return frozenset(wanted)


def memory_types_of(text: str | None, *, default: frozenset[MemoryType] | None) -> frozenset[MemoryType] | None:
    """The types a `memory_type` filter names. Raises `InvalidInput`."""
    names = comma_list(text)
    if not names:
        return default
    known = {kind.value: kind for kind in MemoryType}
    if not known.keys() >= set(names):
        raise InvalidInput("memory_type", f"must be {', '.join(known)}")
    return frozenset(known[name] for name in names)


def limit_of(value: int | None, *, largest: int) -> int:
    """The applied page size: the default for what is no number or below 1, else at most `largest`."""
    return DEFAULT_LIMIT if value is None or value < 1 else min(value, largest)


def offset_of(value: int | None) -> int:
    """The applied page offset; 0 for what is no number or negative."""
    return min(max(0, value or 0), MAX_OFFSET)


def rows_per_session(text: str | None) -> int:
    """The applied `limit_per_session`. Raises `InvalidInput` for what is not a positive integer."""
    if not text:
        return MAX_SESSION_ROWS
    value = _integer_or_none(text)
    if value is None or value < 1:
        raise InvalidInput("limit_per_session", "must be a positive integer")
    return min(value, MAX_SESSION_ROWS)


def relevance_cut(text: str | None, *, default: float) -> float:
    """The relevance below which hits are left out, from `min_confidence`. Raises `InvalidInput`.

    It is the least relevance that `confidence_of` shows as that confidence.
    """
    if not text:
        return default
    value = _integer_or_none(text)
    if value is None or not 0 <= value <= _MAX_CONFIDENCE:
        raise InvalidInput("min_confidence", "must be an integer from 0 to 100")
    return max(0.0, (value - 0.5) / _MAX_CONFIDENCE)


def confidence_of(relevance: float) -> int:
    """The relevance as mem9 shows it: 0 to 100, halves rounded up."""
    return math.floor(relevance * _MAX_CONFIDENCE + 0.5)


def flag(field: str, text: str | None) -> bool:
    """Whether a parameter says yes; one that is absent or empty says no. Raises `InvalidInput` for other words."""
    if text not in _FLAGS:
        raise InvalidInput(field, "must be true or false")
    return _FLAGS[text]


def time_parameter(field: str, text: str | None) -> datetime | None:
    """The moment a parameter names. Raises `InvalidInput`."""
    try:
        return parse_time(text) if text else None
    except ValueError as error:
        raise InvalidInput(field, str(error)) from None


# --- answers ---------------------------------------------------------------------------------------------


class ErrorAnswer(TypedDict):
    """Every failure."""

    error: str


class MemoryAnswer(TypedDict):
    """A memory; optional fields that are empty are left out."""

    id: str
    content: str
    memory_type: Literal["pinned", "insight", "session"]
    source: NotRequired[str]
    tags: NotRequired[list[str]]
    metadata: NotRequired[Any]
    agent_id: NotRequired[str]
    session_id: NotRequired[str]
    updated_by: NotRequired[str]
    superseded_by: NotRequired[str]
    state: Literal["active", "paused", "archived", "deleted"]
    version: int
    created_at: str
    updated_at: str
    score: NotRequired[float]
    confidence: NotRequired[int]
    relative_age: NotRequired[str]
    trace: NotRequired[TraceAnswer]


class PageAnswer(TypedDict):
    """One page of memories."""

    memories: list[MemoryAnswer]
    total: int
    limit: int
    offset: int


class WrittenAnswer(TypedDict):
    """The write is stored. `id` where one memory was written, `session_id` where the server made it."""

    status: Literal["ok", "accepted"]
    id: NotRequired[str]
    session_id: NotRequired[str]


class IdAnswer(TypedDict):
    """A new key."""

    id: str


class StatusAnswer(TypedDict):
    """How something stands."""

    status: str


class VersionAnswer(TypedDict):
    """What runs, since when."""

    go_version: str
    started_at: str
    version: str


class DeletedAnswer(TypedDict):
    """How many were deleted now."""

    deleted: int


class TaskAnswer(TypedDict):
    """An import task; `total` and `done` count chunks."""

    id: str
    file: str
    status: Literal["pending", "processing", "done", "failed"]
    total: int
    done: int
    error: NotRequired[str]
    errors: NotRequired[Any]


class TasksAnswer(TypedDict):
    """All import tasks, newest first."""

    status: Literal["empty", "processing", "partial", "done"]
    tasks: list[TaskAnswer]


class QueuedAnswer(TypedDict):
    """The import task was made."""

    id: str
    status: Literal["pending"]


class MessageAnswer(TypedDict):
    """A captured message."""

    id: str
    session_id: NotRequired[str]
    agent_id: NotRequired[str]
    source: NotRequired[str]
    seq: int
    role: str
    content: str
    content_type: Literal["text", "json"]
    tags: list[str]
    state: str
    created_at: str
    updated_at: str


class MessagesAnswer(TypedDict):
    """Captured messages, ordered by session id, time, seq and id."""

    messages: list[MessageAnswer]
    limit_per_session: int


def shown_time(moment: datetime) -> str:
    """A time as mem9 writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


_AGES = (
    (timedelta(days=365), "year"),
    (timedelta(days=30), "month"),
    (timedelta(days=7), "week"),
    (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
)


def relative_age(moment: datetime, now: datetime) -> str:
    """How long ago, in whole units of the largest that fits; `just now` below a minute and in the future."""
    age = now - moment
    for unit, name in _AGES:
        count = age // unit
        if count >= 1:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def _shown_metadata(metadata: JsonValue, turn: Turn | None) -> JsonValue:
    if turn is None:
        return metadata
    own: dict[str, JsonValue] = dict(metadata) if isinstance(metadata, dict) else {}
    return own | {"role": turn.role, "seq": turn.seq, "content_type": turn.content_type.value}


def shown_memory(memory: Memory, *, seen_at: datetime | None = None) -> MemoryAnswer:
    """The memory as mem9 shows it; with `seen_at` its age too."""
    answer: MemoryAnswer = {
        "id": memory.id,
        "content": memory.content,
        "memory_type": memory.memory_type.value,
        "state": _SHOWN_STATE[memory.state],  # type: ignore[typeddict-item] # the table holds these names
        "version": memory.version,
        "created_at": shown_time(memory.created_at),
        "updated_at": shown_time(memory.updated_at),
    }
    if memory.tags:
        answer["tags"] = list(memory.tags)
    metadata = _shown_metadata(memory.metadata, memory.turn)
    if metadata is not None:
        answer["metadata"] = metadata
    for name in ("source", "agent_id", "session_id", "updated_by", "superseded_by"):
        value = getattr(memory, name)
        if value:
            answer[name] = value
    if seen_at is not None:
        answer["relative_age"] = relative_age(memory.updated_at, seen_at)
    return answer


def shown_message(memory: Memory, turn: Turn) -> MessageAnswer:
    """The captured turn as mem9 shows it."""
    answer: MessageAnswer = {
        "id": memory.id,
        "seq": turn.seq,
        "role": turn.role,
        "content": memory.content,
        "content_type": turn.content_type.value,
        "tags": list(memory.tags),
        "state": _SHOWN_STATE[memory.state],
        "created_at": shown_time(memory.created_at),
        "updated_at": shown_time(memory.updated_at),
    }
    for name in ("session_id", "agent_id", "source"):
        value = getattr(memory, name)
        if value:
            answer[name] = value
    return answer


TASK_STATUS: dict[JobState, Literal["pending", "processing", "done", "failed"]] = {
    JobState.QUEUED: "pending",
    JobState.RUNNING: "processing",
    JobState.DONE: "done",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}


def aggregate_status(tasks: list[TaskAnswer]) -> Literal["empty", "processing", "partial", "done"]:
    """How all tasks together stand; `done` too when all of them failed."""
    statuses = {task["status"] for task in tasks}
    if not statuses:
        return "empty"
    if statuses & {"pending", "processing"}:
        return "processing"
    return "partial" if statuses == {"done", "failed"} else "done"
