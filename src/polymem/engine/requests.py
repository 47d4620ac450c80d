"""What callers hand to the engine and what it hands back, in the engine's own words."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polymem.domain.model import (
    Association,
    ContentType,
    JsonValue,
    Key,
    Memory,
    MemoryId,
    MemoryType,
    SpaceId,
    Tenant,
    User,
)
from polymem.domain.query import MemoryFilter
from polymem.ports.queue import JobCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMemory:
    """A text to keep. `space_id` None is the principal's personal space; `memory_type` is not `session`."""

    content: str
    memory_type: MemoryType = MemoryType.INSIGHT
    tags: tuple[str, ...] = ()
    metadata: JsonValue = None
    source: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    space_id: SpaceId | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPatch:
    """What a client changes of a memory; None leaves a part as it is."""

    content: str | None = None
    tags: tuple[str, ...] | None = None
    metadata: JsonValue = None
    updated_by: str | None = None
    expected_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """One message of a conversation; `seq` None takes the next number of its session."""

    role: str
    content: str
    content_type: ContentType = ContentType.TEXT
    seq: int | None = None
    created_at: datetime | None = None


class IngestMode(StrEnum):
    """How messages become memories: turns and, with a model, facts (smart), or turns alone (raw)."""

    SMART = "smart"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurns:
    """Messages of one session, in the order they were said. `session_id` None makes a new session."""

    turns: tuple[NewTurn, ...]
    session_id: str | None = None
    agent_id: str | None = None
    source: str | None = None
    tags: tuple[str, ...] = ()
    metadata: JsonValue = None
    mode: IngestMode = IngestMode.SMART
    space_id: SpaceId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Every turn is durable: the ids of the new ones, in order, and how many were there before."""

    session_id: str
    memory_ids: tuple[MemoryId, ...]
    duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The memory as stored; `is_new` False when a retry found what it had written."""

    memory: Memory
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAtom:
    """A text to keep if it is news. `domain` None or "general" is the principal's personal space.

    `concepts` empty: they are read from the text. A memory that supersedes others, or has a reference, is always kept.
    """

    content: str
    domain: str | None = None
    concepts: tuple[str, ...] = ()
    metadata: JsonValue = None
    external_ref: str | None = None
    supersedes: tuple[MemoryId, ...] = ()
    fingerprint: str | None = None
    source: str | None = None
    agent_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The text is kept: `is_new` False when this reference named this text before. `superseded`: what it replaced."""

    memory: Memory
    reason: str
    is_new: bool
    superseded: tuple[MemoryId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """Nothing was stored: the text is not news. `repeats`: the memory that says it already, if there is one."""

    importance: float
    reason: str
    repeats: MemoryId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFeedback:
    """How it went, in [-1, 1], with memories that were used; see `Feedback.give`."""

    memory_ids: tuple[MemoryId, ...]
    outcome: float
    concepts: tuple[str, ...] = ()
    query_concepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackGiven:
    """What feedback changed: memories, the mean of their valences after it, associations by co-activation."""

    updated: int
    average_valence: float
    coactivated: int


class HitSource(StrEnum):
    """How a memory was recollected: by its fingerprint, by what it says, or by associated concepts alone."""

    EPISODIC = "episodic"
    SEMANTIC = "semantic"
    HEBBIAN = "hebbian"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecollectRequest:
    """A question whose answer is ordered by what was learned, too.

    `where.spaces` are narrowed to what may be read. `concepts`: hints beside what the question itself names.
    `fingerprint` None: the question's own text. `diversity` in [0, 1]: how much a hit loses for being like one before.
    """

    text: str
    where: MemoryFilter
    limit: int
    min_relevance: float
    expands: bool = True
    concepts: tuple[str, ...] = ()
    fingerprint: str | None = None
    with_superseded: bool = False
    newest_first: bool = False
    diversity: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecollectedHit:
    """`relevance` is what orders the hits and may exceed 1; `similarity` is the raw cosine, 0 without vectors."""

    memory: Memory
    relevance: float
    similarity: float
    source: HitSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """The hits, best first; the keys of the question's concepts, and these with those that they activated."""

    hits: tuple[RecollectedHit, ...]
    query_concepts: tuple[str, ...]
    expanded_concepts: tuple[str, ...]
    is_degraded: bool

    @property
    def is_episodic(self) -> bool:
        """True when a fingerprint was recognised."""
        return any(hit.source is HitSource.EPISODIC for hit in self.hits)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRequest:
    """Associations around some concepts: so many steps, so many edges; `spaces` None: all that may be read."""

    seeds: tuple[str, ...]
    depth: int = 1
    limit: int = 100
    min_weight: float | None = None
    spaces: frozenset[SpaceId] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Associations, heaviest first, those of several spaces as one; every concept in them with its degree here."""

    degrees: Mapping[str, int]
    edges: tuple[Association, ...]
    is_truncated: bool
    min_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Consolidated:
    """What consolidation made of a domain; counts of active memories. `singletons`: protected ones after it."""

    before: int
    after: int
    prototypes_made: int
    singletons: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStatistics:
    """Counts over the active memories that the principal may read. `domains`: names of spaces that hold any."""

    episodes: int
    prototypes: int
    singletons: int
    associations: int
    fingerprints: int
    domains: tuple[str, ...]
    average_valence: float
    average_importance: float


class ImportFormat(StrEnum):
    """What an import file holds."""

    MEMORY = "memory"
    SESSION = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """A file to import; its bytes come from `chunks` and are durable before the job is acknowledged.

    `agent_id` goes before what the file says; `default_agent_id` counts where neither says anything.
    """

    format: ImportFormat
    file_name: str
    chunks: AsyncIterator[bytes]
    agent_id: str | None = None
    default_agent_id: str | None = None
    session_id: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A key with its secret, which is told here once and stored nowhere."""

    key: Key
    secret: str
    tenant: Tenant
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """Where a principal stands in its plan's request limit after one request was counted."""

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the server can serve, and what is degraded, each in words for an operator.

    `jobs`: how many stand where; None when the storage did not say.
    """

    is_serving: bool
    degraded: tuple[str, ...]
    jobs: JobCounts | None = None
