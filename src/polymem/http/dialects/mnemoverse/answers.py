"""mnemoverse's answers, made of the engine's words."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired, assert_never

from typing_extensions import TypedDict

from polymem.domain.model import Association, Memory, SpaceId
from polymem.engine.requests import (
    Consolidated,
    Filtered,
    Graph,
    MemoryStatistics,
    RecollectedHit,
    Recollection,
    Remembered,
)
from polymem.errors import PolymemError
from polymem.http.dialects.mnemoverse.errors import said


class ErrorAnswer(TypedDict):
    """Every failure but a path that no route serves."""

    code: str
    message: str
    requestId: str
    retryable: bool
    details: Any


class WriteAnswer(TypedDict):
    """Whether the text was kept, and why."""

    stored: bool
    atom_id: str | None
    importance: float
    reason: str
    superseded: list[str]


class WriteResultAnswer(TypedDict):
    """What became of one item of a batch."""

    index: int
    stored: bool
    atom_id: str | None
    importance: float
    reason: str
    error: str | None


class WriteBatchAnswer(TypedDict):
    """What became of every item."""

    total_count: int
    stored_count: int
    results: list[WriteResultAnswer]


class ProvenanceAnswer(TypedDict):
    """Who recorded a memory: the user, the agent, and where it ran; nobody is external here."""

    principal: str
    agent: str | None
    agent_name: str | None
    client_env: str | None
    is_external: bool


class FeedItemAnswer(TypedDict):
    """A memory in a feed; what does not apply of the last two is left out."""

    atom_id: str
    content: str
    concepts: list[str]
    domain: str
    created_at: str
    provenance: ProvenanceAnswer
    supersedes: NotRequired[list[str]]
    superseded_by: NotRequired[str]


class MemoryItemAnswer(FeedItemAnswer):
    """A memory that answers a question."""

    relevance: float
    similarity: float
    valence: float
    importance: float
    source: Literal["episodic", "semantic", "hebbian"]
    metadata: dict[str, Any]


class ReadAnswer(TypedDict):
    """The memories that answer a question, best first."""

    items: list[MemoryItemAnswer]
    episodic_hit: bool
    query_concepts: list[str]
    expanded_concepts: list[str]
    search_time_ms: float


class ReadBatchAnswer(TypedDict):
    """One answer for each question."""

    results: list[ReadAnswer]


class RecentAnswer(TypedDict):
    """A page of the feed; `next_cursor` null: it is the last one."""

    items: list[FeedItemAnswer]
    next_cursor: str | None


class NodeAnswer(TypedDict):
    """A concept, and how many of the edges shown it has."""

    concept: str
    degree: int


class EdgeAnswer(TypedDict):
    """An association; it has no direction."""

    source: str
    target: str
    weight: float
    valence: float
    count: int
    updated_at: str


class GraphAnswer(TypedDict):
    """Associations around the seeds, heaviest first."""

    nodes: list[NodeAnswer]
    edges: list[EdgeAnswer]
    truncated: bool
    min_weight_applied: float


class FeedbackAnswer(TypedDict):
    """What feedback changed."""

    updated_count: int
    avg_valence: float
    coactivation_edges: int


class ConsolidateAnswer(TypedDict):
    """What consolidation made of a domain."""

    domain: str
    atoms_before: int
    atoms_after: int
    prototypes_created: int
    singletons_protected: int
    compression_ratio: float
    duration_ms: float


class StatsAnswer(TypedDict):
    """Counts over the active atoms."""

    total_atoms: int
    episodes: int
    prototypes: int
    singletons: int
    hebbian_edges: int
    episodic_fingerprints: int
    domains: list[str]
    avg_valence: float
    avg_importance: float


class DomainsAnswer(TypedDict):
    """Domains with atoms in them."""

    domains: list[str]


class AtomAnswer(TypedDict):
    """An atom with everything that is known of it."""

    atom_id: str
    content: str
    concepts: list[str]
    importance: float
    valence: float
    domain: str
    metadata: dict[str, Any]
    atom_type: Literal["episode", "prototype", "singleton"]
    state: Literal["processing", "active", "paused", "cooling", "archived"]
    source_ids: list[str]
    supersedes: list[str]
    superseded_by: str | None
    external_ref: str | None
    fingerprint: str | None
    tags: list[str]
    memory_type: Literal["insight", "pinned", "session"]
    version: int
    created_at: str
    updated_at: str
    provenance: ProvenanceAnswer


class ExportedAnswer(AtomAnswer):
    """A line of an export; every association stands on exactly one line."""

    associations: list[EdgeAnswer]


class DeletedAtomAnswer(TypedDict):
    """1 when the atom was there."""

    deleted: int
    atom_id: str


class DeletedDomainAnswer(TypedDict):
    """How many atoms of the domain were deleted."""

    deleted: int
    domain: str


class DeletedAnswer(TypedDict):
    """How many atoms were deleted."""

    deleted: int


class RestoredAnswer(TypedDict):
    """How many atoms are active again."""

    restored: int
    atom_id: str


class HealthAnswer(TypedDict):
    """The process answers; `database` is not looked at."""

    status: Literal["ok"]
    database: bool
    version: str


class ChecksAnswer(TypedDict):
    """Which parts of the server work."""

    database: bool
    engine: bool
    embedding: bool


class ReadyAnswer(TypedDict):
    """Whether all parts of the server work."""

    ready: bool
    checks: ChecksAnswer
    version: str


# --- what is shown ---------------------------------------------------------------------------------------


def shown_time(moment: datetime) -> str:
    """A time as mnemoverse writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _provenance(memory: Memory) -> ProvenanceAnswer:
    return {
        "principal": memory.created_by,
        "agent": memory.agent_id,
        "agent_name": None,
        "client_env": memory.source,
        "is_external": False,
    }


def _metadata(memory: Memory) -> dict[str, Any]:
    """The metadata as an object; another API may have kept any JSON value, which is shown as its `value`."""
    if isinstance(memory.metadata, Mapping):
        return dict(memory.metadata)
    return {} if memory.metadata is None else {"value": memory.metadata}


def feed_item(memory: Memory, domain: str) -> FeedItemAnswer:
    """The memory in a feed; what it replaced and what replaced it only where there is such."""
    item: FeedItemAnswer = {
        "atom_id": memory.id,
        "content": memory.content,
        "concepts": list(memory.concepts),
        "domain": domain,
        "created_at": shown_time(memory.created_at),
        "provenance": _provenance(memory),
    }
    if memory.supersedes:
        item["supersedes"] = list(memory.supersedes)
    if memory.superseded_by is not None:
        item["superseded_by"] = memory.superseded_by
    return item


def _hit(hit: RecollectedHit, domain: str) -> MemoryItemAnswer:
    return {
        **feed_item(hit.memory, domain),
        "relevance": hit.relevance,
        "similarity": hit.similarity,
        "valence": hit.memory.valence,
        "importance": hit.memory.importance,
        "source": hit.source.value,
        "metadata": _metadata(hit.memory),
    }


def read_answer(found: Recollection, domains: Mapping[SpaceId, str], seconds: float) -> ReadAnswer:
    """The hits in their order; `domains` names their spaces."""
    return {
        "items": [_hit(hit, domains[hit.memory.space_id]) for hit in found.hits],
        "episodic_hit": found.is_episodic,
        "query_concepts": list(found.query_concepts),
        "expanded_concepts": list(found.expanded_concepts),
        "search_time_ms": round(seconds * 1000, 3),
    }


def atom(memory: Memory, domain: str) -> AtomAnswer:
    """Everything that is known of the memory."""
    return {
        "atom_id": memory.id,
        "content": memory.content,
        "concepts": list(memory.concepts),
        "importance": memory.importance,
        "valence": memory.valence,
        "domain": domain,
        "metadata": _metadata(memory),
        "atom_type": memory.role.value,
        "state": memory.state.value,
        "source_ids": list(memory.derived_from),
        "supersedes": list(memory.supersedes),
        "superseded_by": memory.superseded_by,
        "external_ref": memory.external_ref,
        "fingerprint": memory.fingerprint,
        "tags": list(memory.tags),
        "memory_type": memory.memory_type.value,
        "version": memory.version,
        "created_at": shown_time(memory.created_at),
        "updated_at": shown_time(memory.updated_at),
        "provenance": _provenance(memory),
    }


def _edge(association: Association) -> EdgeAnswer:
    return {
        "source": association.source,
        "target": association.target,
        "weight": association.weight,
        "valence": association.valence,
        "count": association.count,
        "updated_at": shown_time(association.updated_at),
    }


def exported(memory: Memory, domain: str, owned: Sequence[Association]) -> ExportedAnswer:
    """The atom with the associations that it owns."""
    return {**atom(memory, domain), "associations": [_edge(each) for each in owned]}


def write_answer(outcome: Remembered | Filtered) -> WriteAnswer:
    """Whether the text was kept."""
    match outcome:
        case Remembered(memory=memory, reason=reason, superseded=superseded):
            return {
                "stored": True,
                "atom_id": memory.id,
                "importance": memory.importance,
                "reason": reason,
                "superseded": list(superseded),
            }
        case Filtered(importance=importance, reason=reason):
            return {"stored": False, "atom_id": None, "importance": importance, "reason": reason, "superseded": []}
        case _ as never:
            assert_never(never)


def write_result(index: int, outcome: Remembered | Filtered | PolymemError | str) -> WriteResultAnswer:
    """What became of one item of a batch; a text tells what is wrong with it."""
    if isinstance(outcome, PolymemError | str):
        error = outcome if isinstance(outcome, str) else said(outcome)
        return {"index": index, "stored": False, "atom_id": None, "importance": 0.0, "reason": "", "error": error}
    answer = write_answer(outcome)
    return {
        "index": index,
        "stored": answer["stored"],
        "atom_id": answer["atom_id"],
        "importance": answer["importance"],
        "reason": answer["reason"],
        "error": None,
    }


def _by_degree(node: tuple[str, int]) -> tuple[int, str]:
    concept, degree = node
    return -degree, concept


def graph_answer(graph: Graph) -> GraphAnswer:
    """The associations, heaviest first, and their concepts, those with most first; a seed without any is left out."""
    degrees = sorted(((concept, degree) for concept, degree in graph.degrees.items() if degree), key=_by_degree)
    return {
        "nodes": [{"concept": concept, "degree": degree} for concept, degree in degrees],
        "edges": [_edge(each) for each in graph.edges],
        "truncated": graph.is_truncated,
        "min_weight_applied": graph.min_weight,
    }


def consolidate_answer(domain: str, done: Consolidated) -> ConsolidateAnswer:
    """What consolidation made of the domain; of an empty one the ratio is 1."""
    return {
        "domain": domain,
        "atoms_before": done.before,
        "atoms_after": done.after,
        "prototypes_created": done.prototypes_made,
        "singletons_protected": done.singletons,
        "compression_ratio": done.before / done.after if done.after else 1.0,
        "duration_ms": round(done.seconds * 1000, 3),
    }


def stats_answer(counted: MemoryStatistics) -> StatsAnswer:
    """The counts, and their sum."""
    return {
        "total_atoms": counted.episodes + counted.prototypes + counted.singletons,
        "episodes": counted.episodes,
        "prototypes": counted.prototypes,
        "singletons": counted.singletons,
        "hebbian_edges": counted.associations,
        "episodic_fingerprints": counted.fingerprints,
        "domains": list(counted.domains),
        "avg_valence": counted.average_valence,
        "avg_importance": counted.average_importance,
    }
