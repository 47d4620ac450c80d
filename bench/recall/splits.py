"""Halves of the questions: a configuration is chosen on one and reported on the other."""

import hashlib
from collections.abc import Iterable

from bench.recall.dataset import Question


def halves(questions: Iterable[Question], salt: str) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of two halves that hold each kind of question alike, dealt by a hash of salt and id.

    The halves differ by at most one question of each kind and by at most one in all. They do not depend on the
    order of the questions.
    """
    ranked = sorted(questions, key=lambda question: (question.kind, _hash(salt, question.id)))
    first = _hash(salt, "first dealt to") & 1
    dealt = ({question.id for question in ranked[::2]}, {question.id for question in ranked[1::2]})
    return frozenset(dealt[first]), frozenset(dealt[1 - first])


def _hash(salt: str, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{salt}:{text}".encode()).digest()[:8], "big")
