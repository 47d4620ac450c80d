"""mnemoverse's request bodies and cursors, and their translation into the engine's words."""

import base64
import re
import zlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from polymem.domain.limits import in_utc
from polymem.domain.model import Memory, MemoryId, SpaceId
from polymem.domain.query import Comparison, FeedPosition, MemoryFilter, MetadataCondition
from polymem.engine.requests import GraphRequest, NewAtom, NewFeedback, RecollectRequest
from polymem.errors import InvalidInput, NotFound
from polymem.http.dialects.mnemoverse.errors import said
from polymem.http.kit import EdgeCode, EdgeError, Violation
from polymem.http.kit.validation import schema_mismatch

GENERAL = "general"
MAX_CONTENT_CHARACTERS = 10_000
MAX_QUERY_CHARACTERS = 5_000
MAX_CONCEPT_CHARACTERS = 256
MAX_CONCEPTS = 256
MAX_DOMAIN_CHARACTERS = 100
MAX_DOMAINS = 100
MAX_REFERENCE_CHARACTERS = 255
MAX_FINGERPRINT_CHARACTERS = 512
MAX_CURSOR_CHARACTERS = 512
MAX_SUPERSEDED = 32
MAX_WRITES = 500
MAX_READS = 50
MAX_FEEDBACK = 500
MAX_RESULTS = 100
MAX_FEED = 100
MAX_SEEDS = 20
MAX_DEPTH = 3
MAX_EDGES = 500
MAX_FILTERS = 16
MAX_PATH_STEPS = 8
MAX_FILTER_VALUES = 100
_ROOM = "xroom:"
_ID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE)
_CURSOR = re.compile(rf"[A-Za-z0-9_=-]{{1,{MAX_CURSOR_CHARACTERS}}}")
_CURSOR_BYTES = 8 + 16 + 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


# --- requests --------------------------------------------------------------------------------------------


def memory_id_or_none(text: str) -> MemoryId | None:
    """The id as stored, of a UUID in any case, with hyphens or without; None for any other text."""
    return MemoryId(str(UUID(text))) if _ID.fullmatch(text) else None


def memory_id(text: str) -> MemoryId:
    """As `memory_id_or_none`. Raises `NotFound` for what no atom can be called."""
    known = memory_id_or_none(text)
    if known is None:
        raise NotFound("memory", text)
    return known


def _as_id(text: str) -> str:
    known = memory_id_or_none(text)
    if known is None:
        raise ValueError("must be a UUID")
    return known


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _absent_when_empty(value: object) -> object:
    return None if value == "" else value


def _as_time(text: str) -> str:
    _time(text)
    return text


def _time(text: str) -> datetime:
    """An ISO-8601 time; without an offset it is taken as UTC. Raises `ValueError`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be an ISO-8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_AtomId = Annotated[str, AfterValidator(_as_id), WithJsonSchema({"type": "string", "format": "uuid"})]
_Content = Annotated[str, Field(min_length=1, max_length=MAX_CONTENT_CHARACTERS), AfterValidator(_not_blank)]
_Question = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS), AfterValidator(_not_blank)]
_Concept = Annotated[str, Field(min_length=1, max_length=MAX_CONCEPT_CHARACTERS), AfterValidator(_not_blank)]
_Concepts = Annotated[list[_Concept], Field(max_length=MAX_CONCEPTS)]
_DomainName = Annotated[str, Field(min_length=1, max_length=MAX_DOMAIN_CHARACTERS), AfterValidator(_not_blank)]
_Domain = Annotated[_DomainName | None, BeforeValidator(_absent_when_empty)]
_Reference = Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE_CHARACTERS), AfterValidator(_not_blank)]
_Fingerprint = Annotated[
    Annotated[str, Field(max_length=MAX_FINGERPRINT_CHARACTERS)] | None, BeforeValidator(_absent_when_empty)
]
_Author = Annotated[
    Annotated[str, Field(max_length=MAX_REFERENCE_CHARACTERS)] | None, BeforeValidator(_absent_when_empty)
]
_Moment = Annotated[
    Annotated[str, AfterValidator(_as_time)] | None,
    BeforeValidator(_absent_when_empty),
    Field(description="ISO-8601; without an offset it is UTC."),
]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Body(BaseModel):
    """A body with strict types; null is as absent, and fields nobody knows are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """The fields that say something."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


def _is_room(domain: str | None) -> bool:
    return domain is not None and domain.startswith(_ROOM)


class WriteBody(_Body):
    """A text to keep if it is news."""

    content: Annotated[_Content, Field(description="The insight, pattern or lesson to remember.")]
    concepts: Annotated[_Concepts, Field(description="Without any they are read from the text.")] = []
    domain: Annotated[_Domain, Field(description="A namespace: general, user:X, project:Z.")] = None
    metadata: Annotated[dict[str, Any], Field(description="At most 64 KiB of JSON.")] = {}
    external_ref: Annotated[_Reference | None, Field(description="Your own name of it: writes are idempotent.")] = None
    supersedes: Annotated[
        list[_AtomId], Field(max_length=MAX_SUPERSEDED, description="Atoms that this one replaces. Not in a batch.")
    ] = []
    fingerprint: Annotated[_Fingerprint, Field(description="What a read finds it by, letter for letter.")] = None

    @field_validator("supersedes")
    @classmethod
    def _rooms_keep_their_history(cls, supersedes: list[str], others: ValidationInfo) -> list[str]:
        if supersedes and _is_room(others.data.get("domain")):
            raise ValueError("is not taken in a shared room")
        return supersedes

    def new_atom(self, agent_id: str | None) -> NewAtom:
        """The atom as the engine takes it. Raises `NotFound` for a shared room: there are none here."""
        if _is_room(self.domain):
            raise NotFound("room", str(self.domain))
        return NewAtom(
            content=self.content,
            domain=self.domain,
            concepts=tuple(self.concepts),
            metadata=self.metadata,
            external_ref=self.external_ref,
            supersedes=tuple(MemoryId(each) for each in self.supersedes),
            fingerprint=self.fingerprint,
            source=agent_id,
            agent_id=agent_id,
        )


class WriteBatchBody(_Body):
    """Texts to keep; each is looked at by itself."""

    items: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_WRITES),
        WithJsonSchema(
            {"type": "array", "minItems": 1, "maxItems": MAX_WRITES, "items": WriteBody.model_json_schema()}
        ),
    ]

    def atoms(self, agent_id: str | None) -> list[NewAtom | str]:
        """Each item as the engine takes it, or what is wrong with it. Raises `EdgeError` where one supersedes."""
        for position, item in enumerate(self.items):
            if isinstance(item, dict) and item.get("supersedes"):
                violation = Violation(("items", position, "supersedes"), "is not taken in a batch: write it alone")
                raise EdgeError(EdgeCode.SCHEMA_MISMATCH, violation.message, violations=(violation,))
        return [_atom_of(item, agent_id) for item in self.items]


def _atom_of(item: object, agent_id: str | None) -> NewAtom | str:
    try:
        return WriteBody.model_validate(item).new_atom(agent_id)
    except ValidationError as error:
        found = schema_mismatch([{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)])
        return "; ".join(f"{each.field if each.path else 'item'}: {each.message}" for each in found.violations)
    except NotFound as error:
        return said(error)


class _Window(_Body):
    """Which memories are looked at."""

    since: _Moment = None
    until: _Moment = None
    exclude_author: Annotated[_Author, Field(description="Leaves out what this principal or agent wrote.")] = None
    include_history: Annotated[bool, Field(description="Also what was superseded.")] = False

    @model_validator(mode="after")
    def _is_a_window(self) -> Self:
        """What a refused question asks is never counted: it is refused here, as one of meaning."""
        since, until = self._ends()
        if since and until and since > until:
            raise InvalidInput("since", "must not be after until")
        return self

    def _ends(self) -> tuple[datetime | None, datetime | None]:
        since = in_utc("since", _time(self.since)) if self.since else None
        return since, in_utc("until", _time(self.until)) if self.until else None

    def where(self, spaces: frozenset[SpaceId], metadata: tuple[MetadataCondition, ...] = ()) -> MemoryFilter:
        """The filter in the engine's words; both ends of the time belong to it."""
        since, until = self._ends()
        return MemoryFilter(
            spaces=spaces,
            created_from_at=since,
            created_until_at=until + _MICROSECOND if until else None,
            except_author=self.exclude_author,
            metadata=metadata,
        )


class ReadBody(_Window):
    """A question, and what answers it."""

    query: _Question
    top_k: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = 10
    domain: Annotated[_Domain, Field(description="Null or empty: all that you may read.")] = None
    min_relevance: _Share = 0.3
    include_associations: bool = True
    concepts: Annotated[_Concepts, Field(description="Hints beside what the question itself names.")] = []
    order_by: Literal["relevance", "recency"] = "relevance"
    fingerprint: _Fingerprint = None
    diversity: _Share = 0.0

    def domain_names(self) -> tuple[str, ...]:
        """The domains that are asked; none: all of them."""
        return () if self.domain is None else (self.domain,)

    def conditions(self) -> tuple[MetadataCondition, ...]:
        """What must hold of the metadata."""
        return ()

    def request(self, spaces: frozenset[SpaceId]) -> RecollectRequest:
        """The question as the engine takes it."""
        return RecollectRequest(
            text=self.query,
            where=self.where(spaces, self.conditions()),
            limit=self.top_k,
            min_relevance=self.min_relevance,
            expands=self.include_associations,
            concepts=tuple(self.concepts),
            fingerprint=self.fingerprint,
            with_superseded=self.include_history,
            newest_first=self.order_by == "recency",
            diversity=self.diversity,
        )


class ReadBatchBody(_Body):
    """Questions that are answered one by one."""

    queries: Annotated[list[ReadBody], Field(min_length=1, max_length=MAX_READS)]


class FilterBody(BaseModel):
    """What must hold of one value in the metadata; a path that is not there matches nothing."""

    model_config = ConfigDict(strict=True, extra="ignore")

    field: Annotated[str, Field(min_length=1, max_length=1024, description="Keys joined by dots: `a.b`.")]
    op: Annotated[
        Literal["eq", "contains", "in"],
        Field(description="Equal; a list with such an element or a text with such a part; one of a list."),
    ]
    value: Any

    @field_validator("field")
    @classmethod
    def _is_a_path(cls, field: str) -> str:
        if field.count(".") >= MAX_PATH_STEPS:
            raise ValueError(f"too many steps (max {MAX_PATH_STEPS})")
        return field

    @field_validator("value")
    @classmethod
    def _fits_the_operator(cls, value: Any, others: ValidationInfo) -> Any:
        if others.data.get("op") == "in":
            if not isinstance(value, list):
                raise ValueError("must be a list")
            if len(value) > MAX_FILTER_VALUES:
                raise ValueError(f"too many (max {MAX_FILTER_VALUES})")
        return value

    def condition(self) -> MetadataCondition:
        """The condition as the engine takes it."""
        path = tuple(self.field.split("."))
        return MetadataCondition(path=path, comparison=Comparison(self.op), value=self.value)


class QueryBody(ReadBody):
    """A question to several domains, under conditions."""

    domains: Annotated[
        list[_DomainName], Field(max_length=MAX_DOMAINS, description="None: all that you may read.")
    ] = []
    metadata_filter: Annotated[list[FilterBody], Field(max_length=MAX_FILTERS, description="All must hold.")] = []

    def domain_names(self) -> tuple[str, ...]:
        """The domains that are asked, those of `domains` and that of `domain`; none: all of them."""
        return (*super().domain_names(), *self.domains)

    def conditions(self) -> tuple[MetadataCondition, ...]:
        """What must hold of the metadata."""
        return tuple(each.condition() for each in self.metadata_filter)


class RecentBody(_Window):
    """Which page of the feed."""

    limit: Annotated[int, Field(ge=1, le=MAX_FEED)] = 20
    domain: _Domain = None
    cursor: Annotated[str | None, BeforeValidator(_absent_when_empty)] = None

    def position(self) -> FeedPosition | None:
        """Where the page begins. Raises `InvalidInput` for a cursor that this server did not give."""
        return None if self.cursor is None else position_of(self.cursor)


class GraphBody(_Body):
    """Concepts, and how far to go from them."""

    seeds: Annotated[list[_Concept], Field(min_length=1, max_length=MAX_SEEDS)]
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] = 1
    limit: Annotated[int, Field(ge=1, le=MAX_EDGES)] = 100
    min_weight: Annotated[
        float | None, Field(ge=0, description="Absent: 0.05 when `depth` is 2 or more, else none.")
    ] = None
    domain: _Domain = None

    def request(self, spaces: frozenset[SpaceId]) -> GraphRequest:
        """The walk as the engine takes it."""
        return GraphRequest(
            seeds=tuple(self.seeds), depth=self.depth, limit=self.limit, min_weight=self.min_weight, spaces=spaces
        )


class FeedbackBody(_Body):
    """How it went with atoms that were used."""

    atom_ids: Annotated[list[_AtomId], Field(min_length=1, max_length=MAX_FEEDBACK)]
    outcome: Annotated[float, Field(ge=-1, le=1)]
    concepts: Annotated[_Concepts, Field(description="Reinforced with each other.")] = []
    query_concepts: Annotated[_Concepts, Field(description="Reinforced with the concepts of the atoms.")] = []
    domain: Annotated[_Domain, Field(description="Ignored: every atom listed is updated, whatever its domain.")] = None

    def feedback(self) -> NewFeedback:
        """The feedback as the engine takes it."""
        return NewFeedback(
            memory_ids=tuple(MemoryId(each) for each in self.atom_ids),
            outcome=self.outcome,
            concepts=tuple(self.concepts),
            query_concepts=tuple(self.query_concepts),
        )


class ConsolidateBody(_Body):
    """Which domain sleeps on what it has."""

    domain: Annotated[_Domain, Field(description="Null: general.")] = None


class ReferenceBody(_Body):
    """What the client calls the atom."""

    external_ref: _Reference


# --- cursors ---------------------------------------------------------------------------------------------


def cursor_of(memory: Memory) -> str:
    """The place after this memory in a feed, as clients hand it back: opaque, and checked when it comes."""
    place = ((memory.created_at - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True) + UUID(memory.id).bytes
    return base64.urlsafe_b64encode(place + zlib.crc32(place).to_bytes(4, "big")).decode()


def position_of(cursor: str) -> FeedPosition:
    """The place that `cursor_of` made it of. Raises `InvalidInput` for any other text."""
    try:
        return _unpacked(base64.urlsafe_b64decode(cursor if _CURSOR.fullmatch(cursor) else ""))
    except (ValueError, OverflowError):
        raise InvalidInput("cursor", "is damaged, or not one of this server") from None


def _unpacked(raw: bytes) -> FeedPosition:
    """Raises `ValueError` for bytes whose check fails, `OverflowError` for a time that no clock shows."""
    place, check = raw[:-4], raw[-4:]
    if len(raw) != _CURSOR_BYTES or zlib.crc32(place) != int.from_bytes(check, "big"):
        raise ValueError("no cursor")
    age = int.from_bytes(place[:8], "big", signed=True)
    return FeedPosition(_EPOCH + age * _MICROSECOND, MemoryId(str(UUID(bytes=place[8:]))))
