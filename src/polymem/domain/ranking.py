"""How candidates are ordered: what each has on its own, in its context, in time, and against newer ones.

A candidate's score is a sum of named features times the weights below, then two rules that look at the order:
a newer statement of the same matter goes above the older one, and a chat does not fill the page. All functions are
pure. The weights are fitted by `python -m bench.recall fit` and rounded; the table of `bench/RESULTS.md` tells what
each is worth.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.domain.question import Asked
from polymem.domain.text import is_stop_word, terms
from polymem.domain.timewords import DaySpan
from polymem.domain.traits import Traits

Floats = NDArray[np.float64]

# From 60 terms to 600 a text loses by its length, up to 20 it gains: a long text matches much by chance, a very short
# one holds little beside the words that match.
SHORT_TERMS: Final = 60
LONG_TERMS: Final = 600

# What a neighbour or a session has to reach before it speaks for a turn: below it is what anything scores.
CONTEXT_FLOOR: Final = 0.3

# A time window of more days than this tells less the longer it is.
SHARP_DAYS: Final = 90
_LOOSEST_MENTION_FACTOR = 3
_SMALLEST_DECAY_DAYS = 3.0
_MOST_DECAYS = 5.0
_CAUTIOUS_REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Every number that decides the order of recall. Score units: 1 is a perfect match by late interaction.

    The features, each times its weight added up:
        narrow, wide: late interaction within the best 32 and 64 tokens; cosines weighted by the words' rarity.
        bm25: BM25 of the words, of the highest possible. similarity: cosine of the nearest chunk.
        length: minus the logarithm of the length, from 60 to 600 terms.
        assistant_voice: an assistant's turn, for a question about the asker. assistant_asked: for one about it.
        session, previous: the best score of a dialogue's session, of the turn before. answers: that of the turn
        before, as far as it asks.
        asking, ends_asking: outside of chats, the share of questions in the text, and a question at its end.
        named_speaker, other_speaker: said by someone the question names; by someone else, when it names one.
        number_asked, time_asked, name_asked: a number, time or name in the text, for a question that asks for one.
        said_then, tells_of_then: the day it was said, a day it names, lies in the time of the question.
    The rules:
        newer_margin, newer_match: a newer turn rises above an older one on the same matter when its score is less by
        at most the first, and its match by the second; present_margin, present_match: for a question about the
        present. same_matter, same_fact: the cosine from which two turns, two other memories, are on the same matter.
        repeats: what each further turn of one chat loses. superseded: what a memory loses that a client replaced.
    """

    narrow: float = 0.35
    wide: float = 0.65
    bm25: float = 0.16
    similarity: float = 0.01
    length: float = 0.07
    assistant_voice: float = -0.21
    assistant_asked: float = 0.07
    session: float = 0.27
    previous: float = 0.15
    answers: float = 0.42
    asking: float = -0.11
    ends_asking: float = -0.03
    named_speaker: float = 0.07
    other_speaker: float = -0.11
    number_asked: float = 0.035
    time_asked: float = 0.12
    name_asked: float = 0.83
    said_then: float = 0.3
    tells_of_then: float = 0.09

    newer_margin: float = 0.02
    newer_match: float = 0.035
    present_margin: float = 0.12
    present_match: float = 0.09
    same_matter: float = 0.3
    same_fact: float = 0.6
    repeats: float = 0.025
    superseded: float = 0.1


DEFAULT_WEIGHTS: Final = Weights()

RULES: Final = (
    "newer_margin",
    "newer_match",
    "present_margin",
    "present_match",
    "same_matter",
    "same_fact",
    "repeats",
    "superseded",
)
CONTEXT: Final = ("session", "previous", "answers")
FEATURES: Final = tuple(field.name for field in fields(Weights) if field.name not in RULES)

# After `python -m bench.recall calibrate`: the match of a memory without vectors from its words alone.
WORDS_BASE: Final = 0.385
WORDS_COVERAGE: Final = 0.22
WORDS_BM25: Final = 0.3

# How many of the first hits are looked at for a newer statement of the same matter.
_NEWER_AMONG = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What is known of each candidate, one row each. `narrow` and `similarity` are NaN where there are no vectors.

    `session` numbers the sessions, -1 for none; `previous` is the row of the turn before, -1 when it is no candidate.
    `embeddings`: float32 (candidates, dimension) unit rows, zero rows where there are no vectors.
    """

    ids: tuple[str, ...]
    narrow: Floats
    wide: Floats
    similarity: Floats
    coverage: Floats
    bm25: Floats
    lengths: NDArray[np.int64]
    said_at: NDArray[np.int64]
    said_on: tuple[date, ...]
    session: NDArray[np.int64]
    previous: NDArray[np.int64]
    traits: tuple[Traits, ...]
    embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The candidates with their scores, best first: `order` holds rows. `features` are before their weights."""

    order: tuple[int, ...]
    scores: Floats
    features: Mapping[str, Floats]
    rules: Mapping[str, Floats]


def rank(asked: Asked, question_terms: frozenset[str], candidates: Candidates, weights: Weights) -> Ranking:
    """The order of the candidates; equal scores are ordered by id."""
    found = features(asked, question_terms, candidates, weights)
    plain = weighted_sum(found, weights)
    newer = _raised_above_older(asked, candidates, plain, found, weights)
    scores = _spread_over_sessions(candidates, newer, weights)
    rules = {"newer": newer - plain, "repeats": scores - newer}
    return Ranking(order=_order(candidates, scores), scores=scores, features=found, rules=rules)


def weighted_sum(found: Mapping[str, Floats], weights: Weights) -> Floats:
    """The features times their weights, added up."""
    total = np.zeros_like(next(iter(found.values())))
    for name, column in found.items():
        total += getattr(weights, name) * column
    return total


def features(
    asked: Asked, question_terms: frozenset[str], candidates: Candidates, weights: Weights
) -> dict[str, Floats]:
    """The value of each feature for each candidate, by the names of `FEATURES`."""
    own = _own_features(candidates)
    match = weighted_sum(own, weights)
    return (
        own | _voices(asked, question_terms, candidates) | _context(candidates, match) | _asked_for(asked, candidates)
    )


def own_match(candidates: Candidates, weights: Weights) -> Floats:
    """What each candidate scores on its own, without its context."""
    return weighted_sum(_own_features(candidates), weights)


def context_share(ranking: Ranking, row: int, weights: Weights) -> float:
    """What its context adds to the score of a candidate."""
    return float(sum(getattr(weights, name) * ranking.features[name][row] for name in CONTEXT))


def length_share(lengths: NDArray[np.int64]) -> Floats:
    """Minus the logarithm of how much longer than `SHORT_TERMS` a text is, `LONG_TERMS` at most."""
    return -np.log(np.clip(lengths, SHORT_TERMS, LONG_TERMS) / SHORT_TERMS)


def _own_features(candidates: Candidates) -> dict[str, Floats]:
    """What a candidate has on its own; where vectors are missing, its words stand in for them."""
    words = WORDS_BASE + WORDS_COVERAGE * candidates.coverage + WORDS_BM25 * candidates.bm25
    has_vectors = ~np.isnan(candidates.narrow)
    return {
        "narrow": np.where(has_vectors, candidates.narrow, words),
        "wide": np.where(has_vectors, candidates.wide, words),
        "bm25": candidates.bm25,
        "similarity": np.nan_to_num(candidates.similarity),
        "length": length_share(candidates.lengths),
    }


def _voices(asked: Asked, question_terms: frozenset[str], candidates: Candidates) -> dict[str, Floats]:
    """Who speaks, against whom the question is about."""
    assistant = _column(traits.is_assistant for traits in candidates.traits)
    speakers = {traits.speaker for traits in candidates.traits if traits.speaker is not None and traits.has_name}
    named = {speaker for speaker in speakers if _is_named(speaker, question_terms)}
    by_named = _column(traits.speaker in named for traits in candidates.traits)
    by_other = _column(traits.has_name and traits.speaker not in named for traits in candidates.traits)
    return {
        "assistant_voice": assistant * (asked.of_the_asker and not asked.of_the_assistant),
        "assistant_asked": assistant * asked.of_the_assistant,
        "named_speaker": by_named,
        "other_speaker": by_other * bool(named),
    }


def _is_named(speaker: str, question_terms: frozenset[str]) -> bool:
    return any(term in question_terms and not is_stop_word(term) for term in terms(speaker))


def _context(candidates: Candidates, match: Floats) -> dict[str, Floats]:
    """What stands around the turn of a dialogue. A chat with an assistant gives nothing: its turns stand alone."""
    dialogue = _column(traits.is_dialogue for traits in candidates.traits)
    above = np.maximum(match - CONTEXT_FLOOR, 0.0)
    best = np.zeros(int(candidates.session.max(initial=-1)) + 2)
    np.maximum.at(best, candidates.session, above)
    best[-1] = 0.0
    before = np.append(above, 0.0)[candidates.previous]
    asking = _column(traits.asking for traits in candidates.traits)
    return {
        "session": dialogue * best[candidates.session],
        "previous": dialogue * before,
        "answers": dialogue * before * np.append(asking, 0.0)[candidates.previous],
    }


def _asked_for(asked: Asked, candidates: Candidates) -> dict[str, Floats]:
    """Whether the text has what is asked for: a number, a time, a name, the right days, an answer at all."""
    all_traits = candidates.traits
    telling = _column(not traits.is_chat for traits in all_traits)
    said, tells = _in_time(asked.spans, candidates)
    return {
        "asking": telling * _column(traits.asking for traits in all_traits),
        "ends_asking": telling * _column(traits.ends_asking for traits in all_traits),
        "number_asked": telling * _column(asked.for_a_number and traits.has_number for traits in all_traits),
        "time_asked": telling * _column(asked.for_a_time and traits.has_time for traits in all_traits),
        "name_asked": telling * _column(asked.for_a_name * traits.names for traits in all_traits),
        "said_then": said,
        "tells_of_then": tells,
    }


def _in_time(windows: Sequence[DaySpan], candidates: Candidates) -> tuple[Floats, Floats]:
    """How near the day each was said, and the days it names, are to the time of the question, in [0, 1]."""
    said, tells = np.zeros(len(candidates)), np.zeros(len(candidates))
    for window in windows:
        sharpness = min(1.0, math.sqrt(SHARP_DAYS / window.days))
        decay = max(window.days / 2, _SMALLEST_DECAY_DAYS)
        for row, day in enumerate(candidates.said_on):
            distance = window.distance(DaySpan(day, day))
            said[row] = max(said[row], _nearness(sharpness, distance / decay))
            for span in candidates.traits[row].spans:
                if span.days <= _LOOSEST_MENTION_FACTOR * max(window.days, 1):
                    tells[row] = max(tells[row], _nearness(sharpness, 2 * window.distance(span) / decay))
    return said, tells


def _nearness(sharpness: float, decays: float) -> float:
    """How much a distance of so many decay lengths tells; far away nothing."""
    return sharpness * math.exp(-decays) if decays < _MOST_DECAYS else 0.0


def _raised_above_older(
    asked: Asked, candidates: Candidates, scores: Floats, found: Mapping[str, Floats], weights: Weights
) -> Floats:
    """Scores in which a newer statement of the same matter stands just above the older one.

    Only where both match the question about as well, and the question does not ask for the past. Between people the
    margin is the small one always: what they tell of each other is seldom a state that is replaced.
    """
    if asked.of_the_past:
        return scores
    first = _order(candidates, scores)[:_NEWER_AMONG]
    vectors = candidates.embeddings[list(first)]
    alike = (vectors @ vectors.T).tolist()
    known, match = scores.tolist(), ((found["narrow"] + found["wide"]) / 2).tolist()
    raised = scores.copy()
    # From the oldest on, so that what rises stands above what has risen before it.
    by_time = sorted(range(len(first)), key=lambda place: (candidates.said_at[first[place]], place))
    for at, place in enumerate(by_time):
        newer = first[place]
        is_state = asked.of_the_present and not candidates.traits[newer].is_dialogue
        margin, slack = (
            (weights.present_margin, weights.present_match) if is_state else (weights.newer_margin, weights.newer_match)
        )
        # A turn of a chat tells a fact beside other things; a memory of its own is one.
        traits = candidates.traits[newer]
        is_turn = traits.speaker is not None and not traits.is_note
        least = weights.same_matter if is_turn else weights.same_fact
        for before in by_time[:at]:
            older = first[before]
            if (
                float(raised[older]) - known[newer] < margin
                and alike[before][place] >= least
                and match[newer] >= match[older] - slack
                and _may_replace(candidates, older, newer)
            ):
                raised[newer] = max(float(raised[newer]), math.nextafter(float(raised[older]), math.inf))
    return raised


def _may_replace(candidates: Candidates, older: int, newer: int) -> bool:
    """True for a later word on another occasion, of the same voice where both are turns."""
    is_apart = candidates.session[older] < 0 or candidates.session[older] != candidates.session[newer]
    is_later = candidates.said_at[newer] > candidates.said_at[older]
    first, second = candidates.traits[older], candidates.traits[newer]
    is_one_voice = first.speaker == second.speaker or (first.is_note and second.is_note)
    return bool(is_apart and is_later) and is_one_voice


def _spread_over_sessions(candidates: Candidates, scores: Floats, weights: Weights) -> Floats:
    """Scores in which each further turn of one chat has lost a little, so that other chats come to word."""
    spread = scores.copy()
    seen: Counter[int] = Counter()
    for row in _order(candidates, scores):
        session = int(candidates.session[row])
        if session >= 0 and not candidates.traits[row].is_dialogue:
            spread[row] -= weights.repeats * min(seen[session], _CAUTIOUS_REPEATS)
            seen[session] += 1
    return spread


def _order(candidates: Candidates, scores: Floats) -> tuple[int, ...]:
    known = scores.tolist()
    return tuple(sorted(range(len(candidates)), key=lambda row: (-known[row], candidates.ids[row])))


def _column(values: Iterable[float]) -> Floats:
    return np.fromiter(values, dtype=np.float64)
