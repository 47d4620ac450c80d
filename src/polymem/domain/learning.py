"""What is learned from use: valence of memories, associations of concepts, and how both order what is recalled.

Sources. Valence moves by the signed prediction error (Rescorla and Wagner 1972). The weight of an association grows
towards 1 by a share of what is missing, a bounded form of Hebb's rule (as Oja 1982 bounds it, without taking from
other weights): the result does not depend on the order. Nothing decays with time; an association weakens only beside
stronger ones of the same concept, when activation is shared out (Collins and Loftus 1975; the fan effect, Anderson
1974). All functions are pure.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from polymem.domain.model import Association
from polymem.domain.scoring import PRIOR_DOCUMENTS, idf, term_weight

# How far one outcome moves a valence towards itself.
VALENCE_RATE: Final = 0.3
# How far a weight moves towards 1: for two concepts of one memory that is written, that proved useful, and for a
# concept of the question with one of the memory that answered it.
WRITE_RATE: Final = 0.2
USE_RATE: Final = 0.1
COACTIVATION_RATE: Final = 0.3
ASSOCIATION_VALENCE_RATE: Final = 0.3

# The odds of relevance are multiplied by e to this times the valence: what always helped gains a quarter of its odds,
# what always failed loses a fifth. More of it would cost questions that were never judged more than a point.
VALENCE_MODULATION: Final = 0.25

# Full activation gives this share of what is missing to full relevance, and less of it by the third power: a weak trace
# must not move what the question itself found. By association alone a memory is this relevant, times its activation.
ACTIVATION_SHARE: Final = 0.4
ACTIVATION_POWER: Final = 3
ACTIVATION_FLOOR: Final = 0.55
# What a concept that stands in the question speaks for memories that have it: little for those whose words say it
# already, more for those that the question did not find.
SPOKEN: Final = 0.3
SPOKEN_ELSEWHERE: Final = 0.6
# A concept that so many memories have, or fewer, is as rare as can be.
RARE_HOLDERS: Final = 2
# Of so many places of a page one is kept for what association alone found, when there is any so active.
PLACES_FOR_ONE_ASSOCIATED: Final = 10
ACTIVE_ENOUGH_TO_SHOW: Final = 0.5
EXPANDED_PER_SEED: Final = 8
MOST_EXPANDED: Final = 24
LEAST_ACTIVATION: Final = 0.05


def modulated(relevance: float, valence: float) -> float:
    """The relevance of a memory in the light of how it turned out, in [0, 1]: `odds <- odds * exp(0.25 * valence)`.

    By odds, so that what is plainly relevant or plainly not hardly moves, and what stands close together does.
    """
    odds = relevance * math.exp(VALENCE_MODULATION * valence)
    return odds / (1.0 - relevance + odds)


def lifted(relevance: float, activation: float) -> float:
    """The relevance with what association adds, in [0, 1]: a share of what is missing, or what it is worth alone."""
    share = ACTIVATION_SHARE * float(activation**ACTIVATION_POWER)
    return max(1.0 - (1.0 - relevance) * (1.0 - share), ACTIVATION_FLOOR * activation)


def strength(association: Association) -> float:
    """How strongly it passes activation on, in [0, 1]: its weight, less as it turned out badly, more as it did well."""
    return min(1.0, association.weight * (1.0 + association.valence))


def spread(seeds: Mapping[str, float], associations: Iterable[Association]) -> dict[str, float]:
    """The activation in [0, 1] that concepts receive from the seeds, strongest first, ties by key.

    From a concept a to b flows `activation(a) * share * (1 + strength) / 2`, where share is the strength of the
    association as part of the strongest that a has: others that grow stronger leave less for it. What reaches a
    concept from several sides adds up as independent evidence, `1 - product of (1 - flow)`. One step, at most
    `EXPANDED_PER_SEED` concepts from each seed and `MOST_EXPANDED` in all. A seed may receive from another.
    """
    outgoing: dict[str, dict[str, float]] = {}
    for association in associations:
        for near, far in ((association.source, association.target), (association.target, association.source)):
            if near in seeds:
                reached = outgoing.setdefault(near, {})
                reached[far] = max(reached.get(far, 0.0), strength(association))
    missing: dict[str, float] = {}
    for seed, reached in outgoing.items():
        strongest = max(reached.values())
        if strongest <= 0.0:
            continue
        best = sorted(reached.items(), key=lambda item: (-item[1], item[0]))[:EXPANDED_PER_SEED]
        for far, value in best:
            flow = seeds[seed] * (value / strongest) * (1.0 + value) / 2.0
            missing[far] = missing.get(far, 1.0) * (1.0 - flow)
    received = {key: 1.0 - left for key, left in missing.items() if 1.0 - left >= LEAST_ACTIVATION}
    return dict(sorted(received.items(), key=lambda item: (-item[1], item[0]))[:MOST_EXPANDED])


def telling(key_terms: Iterable[str], weights: Mapping[str, float], *, documents: int) -> float:
    """How active a concept of the question is, in [0, 1], by its rarest word: a common one leads anywhere.

    `weights`: of the question's terms, as `polymem.domain.scoring.term_weight` gives them.
    """
    highest = term_weight("", documents=documents, documents_with=0)
    return max((min(1.0, weights.get(term, highest) / highest) for term in key_terms), default=1.0)


def concept_weights(
    activations: Mapping[str, float], holders: Mapping[str, int], *, documents: int
) -> dict[str, float]:
    """How much each active concept that memories have speaks for them, in [0, 1]: its activation, times its rarity.

    Rarity is the square of its idf as part of that of a concept that two memories have, among the documents and those
    of the prior.
    """
    total = documents + PRIOR_DOCUMENTS
    rarest = idf(total, RARE_HOLDERS)
    return {
        key: activation * min(1.0, idf(total, holders[key]) / rarest) ** 2
        for key, activation in activations.items()
        if holders.get(key)
    }


def activation_of(concepts: Collection[str], weights: Mapping[str, float]) -> float:
    """How active a memory with these concepts is, in [0, 1]: each active concept is evidence of its own."""
    left = 1.0
    for key in concepts:
        left *= 1.0 - weights.get(key, 0.0)
    return 1.0 - left


def diversified(
    relevance: Sequence[float], likeness: Sequence[Sequence[float]], *, diversity: float, most: int
) -> tuple[int, ...]:
    """The places of `most` candidates by maximal marginal relevance (Carbonell and Goldstein 1998).

    The next is always the one with the highest `(1 - diversity) * relevance - diversity * likeness`, where likeness in
    [0, 1] is to the most alike of those before; ties by place. Without diversity this is the order of relevance.
    """
    left = list(range(len(relevance)))
    closest = [0.0] * len(relevance)
    order: list[int] = []
    while left and len(order) < most:
        best = max(left, key=lambda place: ((1.0 - diversity) * relevance[place] - diversity * closest[place], -place))
        left.remove(best)
        order.append(best)
        for place in left:
            closest[place] = max(closest[place], likeness[best][place])
    return tuple(order)
