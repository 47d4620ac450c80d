"""What can be asked of stored memories: filters, pages, recall requests and their answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from polymem.domain.model import JsonValue, Memory, MemoryId, MemoryRole, MemoryState, MemoryType, SpaceId


class Comparison(StrEnum):
    """How a value of the metadata is compared; see `polymem.domain.conditions.holds`."""

    EQ = "eq"
    CONTAINS = "contains"
    IN = "in"


@dataclass(frozen=True, slots=True)
class MetadataCondition:
    """What must hold of the value at a path of keys in the metadata; a missing path matches nothing."""

    path: tuple[str, ...]
    comparison: Comparison
    value: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFilter:
    """A memory passes when every given condition holds; None leaves a condition out.

    `spaces` is never optional: the engine fills it with what the principal may see. An empty set of any
    condition matches nothing. `tags` must all be present. Times are inclusive at `from`, exclusive at `until`.
    `except_author`: neither its agent id nor the id of the user who made it. `metadata`: all conditions hold.
    """

    spaces: frozenset[SpaceId]
    states: frozenset[MemoryState] | None = frozenset({MemoryState.ACTIVE})
    memory_types: frozenset[MemoryType] | None = None
    tags: tuple[str, ...] = ()
    source: str | None = None
    agent_id: str | None = None
    session_ids: frozenset[str] | None = None
    created_from_at: datetime | None = None
    created_until_at: datetime | None = None
    updated_from_at: datetime | None = None
    updated_until_at: datetime | None = None
    except_author: str | None = None
    metadata: tuple[MetadataCondition, ...] = ()


class ListOrder(StrEnum):
    """The order of a list; ties are broken by id in the same direction."""

    UPDATED_NEWEST = "updated_newest"
    CREATED_NEWEST = "created_newest"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPage:
    """One page of a list; `total` counts all matches before paging."""

    memories: tuple[Memory, ...]
    total: int


@dataclass(frozen=True, slots=True)
class FeedPosition:
    """Where a feed stands: after the memory of this time and id."""

    created_at: datetime
    memory_id: MemoryId


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What was learned of a memory: its valence, and the keys of its concepts."""

    valence: float
    concepts: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceStatistics:
    """Counts over the active memories of one space, and its associations.

    `by_role` has an entry for each role. `fingerprints`: how many different texts or given fingerprints there are.
    """

    space_id: SpaceId
    by_role: Mapping[MemoryRole, int]
    fingerprints: int
    valence_sum: float
    importance_sum: float
    associations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRank:
    """Where one recall arm found a memory: rank from 1, and the arm's own score."""

    arm: str
    rank: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMatch:
    """A word of the question, its share of all weight, and the word of the memory that it met at this cosine."""

    word: str
    weight: float
    met: str
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HitTrace:
    """Why a memory was recalled and what each stage gave it.

    `arms`: which found it, at which rank; none for a turn beside one that was found. `fused`: its score by rank fusion.
    `late_interaction`: of its best 32 and 64 tokens; None without vectors. `coverage` and `bm25`: of the question's
    words, in [0, 1]. `own_score`: the score that relevance is made from. `parts`: what each feature and rule added to
    the score; they sum up to it. `words`: the heaviest words of the question and what they met, when asked for.
    """

    arms: tuple[ArmRank, ...]
    fused: float
    late_interaction: tuple[float, float] | None
    coverage: float
    bm25: float
    own_score: float
    parts: tuple[tuple[str, float], ...]
    words: tuple[WordMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallHit:
    """One recalled memory: `score` orders, `relevance` in [0,1] is calibrated, `similarity` is the raw cosine."""

    memory: Memory
    score: float
    relevance: float
    similarity: float | None
    trace: HitTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRequest:
    """A question to the memories that pass `where`, best first.

    `min_relevance` cuts hits below it; `is_degraded` in the answer says that the model did not take part.
    `reference_at`: when the question is asked; time words are read against it; None: now. `trace`: hits tell which
    words matched which. `pinned_first_from`: pinned memories of at least this relevance stand before all others, within
    the pool; None: where their score puts them.
    """

    text: str
    where: MemoryFilter
    limit: int
    offset: int = 0
    min_relevance: float = 0.0
    reference_at: datetime | None = None
    trace: bool = False
    pinned_first_from: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallPage:
    """The asked-for page of hits; `total` counts the hits above the cut, before paging."""

    hits: tuple[RecallHit, ...]
    total: int
    is_degraded: bool = False
    candidate_ids: tuple[MemoryId, ...] = field(default=())
