"""The rows of the plain baselines over a data set that the engine holds."""

from collections.abc import Callable, Mapping, Sequence

from bench.recall.baselines import PlainBm25, PlainScript
from bench.recall.dataset import DataSet, History, LabTurn
from bench.recall.lab_engine import LabEngine, query_vectors, stored_vectors
from bench.recall.memories import DEPTH, memory
from bench.recall.plain_words import plain_query, plain_terms
from bench.recall.report import Row
from polymem.domain.text import index_terms, query_terms, terms

BM25_TERMS = "BM25, our terms"
BM25_RECIPE = "BM25, README's recipe"
DENSE = "dense alone"
FUSION = "RRF of both"
PLAIN = "plain script"

TermsOf = Callable[[LabTurn], Sequence[str]]
# What the speaker and the date bring to the terms that the engine indexes.
TERM_VARIANTS: Mapping[str, TermsOf] = {
    "BM25, our terms, no speaker, no date": lambda turn: terms(turn.text),
    "BM25, our terms, speaker, no date": lambda turn: terms(f"{turn.speaker}: {turn.text}"),
}


def bm25_row(data_set: DataSet, name: str = BM25_TERMS, terms_of: TermsOf | None = None) -> Row:
    """BM25 alone over the terms that the engine indexes, or over other ones; asked by the engine's query terms."""
    chosen = terms_of or (lambda turn: index_terms(memory(0, 0, turn)))
    row = Row(name)
    for history in data_set.histories:
        plain = PlainBm25([chosen(turn) for turn in history.turns])
        found = {each.id: plain.ranking(query_terms(each.text), DEPTH) for each in history.scored}
        row.add(history, _turns(history, found))
    return row


def recipe_row(data_set: DataSet) -> Row:
    """BM25 alone by the recipe of the data's README: k1 1.2, b 0.75, stop words, light stemming; no engine needed."""
    row = Row(BM25_RECIPE)
    for history in data_set.histories:
        plain = PlainBm25([plain_terms(_text(turn)) for turn in history.turns])
        found = {each.id: plain.ranking(plain_query(each.text), DEPTH) for each in history.scored}
        row.add(history, _turns(history, found))
    return row


async def vector_rows(engine: LabEngine, data_set: DataSet) -> list[Row]:
    """The dense scan, its fusion with BM25 by the recipe, and the plain script, from the stored vectors."""
    rows = [Row(DENSE), Row(FUSION), Row(PLAIN)]
    for number, history in enumerate(data_set.histories):
        texts, sessions = [_text(turn) for turn in history.turns], [turn.session_id for turn in history.turns]
        plain = PlainScript(texts, sessions, await stored_vectors(engine, number, history))
        asked = {each.id: (each.text, await query_vectors(engine, each.text)) for each in history.scored}
        found = (
            {name: plain.dense(query, DEPTH) for name, (_, query) in asked.items()},
            {name: plain.fusion(text, query, DEPTH) for name, (text, query) in asked.items()},
            {name: plain.ranking(text, query, DEPTH) for name, (text, query) in asked.items()},
        )
        for row, rankings in zip(rows, found, strict=True):
            row.add(history, _turns(history, rankings))
    return rows


async def baseline_rows(engine: LabEngine, data_set: DataSet) -> list[Row]:
    """Every baseline."""
    return [bm25_row(data_set), recipe_row(data_set), *await vector_rows(engine, data_set)]


def _text(turn: LabTurn) -> str:
    return f"{turn.speaker}: {turn.text}"


def _turns(history: History, found: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
    """The turn ids of rankings of places."""
    return {name: [history.turns[place].id for place in places] for name, places in found.items()}
