"""Pieces of real turns, texts mixed of them, and questions; every choice follows from a seed."""

import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PIECE_CHARACTERS = 200
_SHORTEST = 120
_SENTENCE_END = re.compile(r"[.!?]\s")
_NAMES = ("longmemeval-pooled.dev.json", "locomo-fixed.dev.json")


def data_files(folder: Path | None) -> list[Path]:
    """The development sets of a folder (default: `shared/data` beside the repository); exits without them."""
    base = folder or Path(__file__).resolve().parents[3] / "shared" / "data"
    files = [base / name for name in _NAMES]
    for path in files:
        if not path.is_file():
            sys.exit(f"no such data set: {path}")
    return files


def pieces(files: Sequence[Path], *, most: int) -> list[str]:
    """At most `most` distinct pieces of some `PIECE_CHARACTERS` characters, drawn evenly from all turns."""
    found: dict[str, None] = {}
    for path in files:
        for history in json.loads(path.read_text(encoding="utf-8")):
            for session in history["sessions"]:
                for turn in session["turns"]:
                    found |= dict.fromkeys(_cut(" ".join(turn["text"].split())))
    every = list(found)
    random.Random(0).shuffle(every)  # noqa: S311 - a reproducible choice, no secret
    return every[:most]


def questions(files: Sequence[Path]) -> list[str]:
    """The distinct questions of the data sets, in a fixed mixed order."""
    asked = {
        question["text"]: None
        for path in files
        for history in json.loads(path.read_text(encoding="utf-8"))
        for question in history["questions"]
    }
    every = list(asked)
    random.Random(0).shuffle(every)  # noqa: S311 - a reproducible choice, no secret
    return every


def queries(known: Sequence[str], source: Sequence[str], *, seed: int) -> Iterator[str]:
    """Questions that never repeat: one of the data sets and some words of a piece in turn, then words alone."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    waiting = list(known)
    chance.shuffle(waiting)
    seen: set[str] = set()
    while True:
        if waiting:
            yield waiting.pop()
        words = chance.choice(source).split()
        length = min(len(words), chance.randint(4, 12))
        start = chance.randint(0, len(words) - length)
        text = " ".join(words[start : start + length])
        if text not in seen:
            seen.add(text)
            yield text


def new_texts(source: Sequence[str], *, seed: int) -> Iterator[str]:
    """Texts of some `PIECE_CHARACTERS` characters that no fill has stored."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    while True:
        first, last = chance.choice(source), chance.choice(source)
        yield f"{chance.randint(100, 999_999)} {mixed(first, last, chance.uniform(0.3, 0.7))}"


def mixed(first: str, last: str, share: float) -> str:
    """The first `share` of one text and the rest of another, cut between words."""
    heads, tails = first.split(), last.split()
    return " ".join(heads[: round(len(heads) * share)] + tails[round(len(tails) * share) :])


def _cut(text: str) -> Iterator[str]:
    """The text in pieces of up to `PIECE_CHARACTERS`, ended at a sentence if there is an end, else at a word."""
    start = 0
    while len(text) - start >= _SHORTEST:
        window = text[start : start + PIECE_CHARACTERS]
        ends = [match.end() for match in _SENTENCE_END.finditer(window) if match.end() >= _SHORTEST]
        if len(text) - start <= PIECE_CHARACTERS:
            end = len(window)
        else:
            end = ends[-1] if ends else max(window.rfind(" "), _SHORTEST)
        yield window[:end].strip()
        start += end
