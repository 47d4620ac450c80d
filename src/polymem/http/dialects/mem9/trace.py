"""Why a row was recalled, as the rows of `trace=true` show it. An extension of this server."""

from typing import NotRequired

from typing_extensions import TypedDict

from polymem.domain.query import RecallHit


class ArmAnswer(TypedDict):
    """One way of searching found the memory: its rank there, from 1, and the score it has there."""

    arm: str
    rank: int
    score: float


class LateInteractionAnswer(TypedDict):
    """How well the question's words meet those of the memory, within its best 32 and 64 tokens; 1 is perfect."""

    narrow: float
    wide: float


class WordAnswer(TypedDict):
    """A word of the question, its share of all weight, and the word of the memory it met at this cosine."""

    word: str
    weight: float
    met: str
    cosine: float


class PartAnswer(TypedDict):
    """A feature or rule, and what it added to the score."""

    part: str
    value: float


class TraceAnswer(TypedDict):
    """Why a memory was recalled; `parts` add up to `score`, largest first.

    `arms` is empty for a turn beside one that was found. `similarity` and `late_interaction` are left out, and `words`
    is empty, where there are no vectors. `coverage` and `bm25` are of the question's words, from 0 to 1.
    """

    score: float
    relevance: float
    arms: list[ArmAnswer]
    fused: float
    similarity: NotRequired[float]
    late_interaction: NotRequired[LateInteractionAnswer]
    coverage: float
    bm25: float
    words: list[WordAnswer]
    parts: list[PartAnswer]


def shown_trace(hit: RecallHit) -> TraceAnswer:
    """The trace of a hit that was recalled with one."""
    trace = hit.trace
    answer: TraceAnswer = {
        "score": hit.score,
        "relevance": hit.relevance,
        "arms": [ArmAnswer(arm=each.arm, rank=each.rank, score=each.score) for each in trace.arms],
        "fused": trace.fused,
        "coverage": trace.coverage,
        "bm25": trace.bm25,
        "words": [
            WordAnswer(word=each.word, weight=each.weight, met=each.met, cosine=each.cosine) for each in trace.words
        ],
        "parts": [
            PartAnswer(part=part, value=value)
            for part, value in sorted(trace.parts, key=lambda each: (-each[1], each[0]))
        ],
    }
    if hit.similarity is not None:
        answer["similarity"] = hit.similarity
    if trace.late_interaction is not None:
        narrow, wide = trace.late_interaction
        answer["late_interaction"] = LateInteractionAnswer(narrow=narrow, wide=wide)
    return answer
