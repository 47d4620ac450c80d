"""The rows behind the constants of recall: `python -m bench.ablation --keep DIRECTORY [FILE ...]`.

Each row is the engine with some constants changed, or BM25 alone over other terms. The data directory is that of
`bench.recall_engine --keep`, fed when it is empty.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from bench.recall_lab import report
from bench.recall_lab.baseline import PlainBm25
from bench.recall_lab.dataset import DataSet, History, LabTurn, load
from bench.recall_lab.engine_run import LabEngine, ask, feed, open_engine
from bench.recall_lab.files import data_files
from bench.recall_lab.memories import DEPTH, memory, position_of
from polymem.domain import scoring
from polymem.domain.text import index_terms, is_stop_word, query_terms, terms
from polymem.engine import recall

_Change = tuple[ModuleType | type, str, object]
_LATE_ONLY: tuple[_Change, ...] = tuple(
    (scoring, name, 0.0) for name in ("COVERAGE_WEIGHT", "BM25_WEIGHT", "SIMILARITY_WEIGHT", "LENGTH_PENALTY")
)


def _without_stop_words(term: str, *, documents: int, documents_with: int) -> float:
    """The weight of a term, none for a stop word."""
    if is_stop_word(term):
        return 0.0
    return scoring.term_weight(term, documents=documents, documents_with=documents_with)


async def _no_model(*_: object) -> tuple[None, tuple[()]]:
    """The dense arm when the model does not take part."""
    return None, ()


ENGINE_ROWS: Mapping[str, tuple[_Change, ...]] = {
    "late interaction": _LATE_ONLY,
    "late + coverage": (*_LATE_ONLY, (scoring, "COVERAGE_WEIGHT", scoring.COVERAGE_WEIGHT)),
    "late + bm25 share": (*_LATE_ONLY, (scoring, "BM25_WEIGHT", scoring.BM25_WEIGHT)),
    "late + similarity": (*_LATE_ONLY, (scoring, "SIMILARITY_WEIGHT", scoring.SIMILARITY_WEIGHT)),
    "no length": ((scoring, "LENGTH_PENALTY", 0.0),),
    "defaults": (),
    "words alone": ((recall.Recall, "_dense", _no_model),),
    "length 0.03": ((scoring, "LENGTH_PENALTY", 0.03),),
    "stop words x 0": ((recall, "term_weight", _without_stop_words),),
    "prior of 400": ((scoring, "PRIOR_DOCUMENTS", 400),),
    "pool 64": ((recall, "POOL_SIZES", (64,)),),
    "pool 256": ((recall, "POOL_SIZES", (256,)),),
    "chunks scored 4": ((recall, "CHUNKS_SCORED", 4),),
}

TERM_ROWS: Mapping[str, Callable[[LabTurn], Sequence[str]]] = {
    "BM25, no speaker, no date": lambda turn: terms(turn.text),
    "BM25, speaker, no date": lambda turn: terms(f"{turn.speaker}: {turn.text}"),
    "BM25, speaker and date (as indexed)": lambda turn: index_terms(memory(0, 0, turn)),
}


async def rows(directory: Path, data_set: DataSet) -> list[report.Row]:
    """Every row of one data set."""
    found = [_term_row(name, of, data_set) for name, of in TERM_ROWS.items()]
    async with open_engine(directory / data_set.name) as engine:
        for number, history in enumerate(data_set.histories):
            await feed(engine, number, history)
        for name, changes in ENGINE_ROWS.items():
            with _changed(changes):
                found.append(await _engine_row(name, engine, data_set))
    return found


def _term_row(name: str, terms_of: Callable[[LabTurn], Sequence[str]], data_set: DataSet) -> report.Row:
    row = report.Row(name)
    for history in data_set.histories:
        plain = PlainBm25([terms_of(turn) for turn in history.turns])
        row.add(
            history,
            {
                question.id: [history.turns[place].id for place in plain.ranking(query_terms(question.text), DEPTH)]
                for question in history.scored
            },
        )
    return row


async def _engine_row(name: str, engine: LabEngine, data_set: DataSet) -> report.Row:
    row = report.Row(name)
    for number, history in enumerate(data_set.histories):
        row.add(
            history,
            {question.id: await _ranking(engine, number, history, question.text) for question in history.scored},
        )
    return row


async def _ranking(engine: LabEngine, number: int, history: History, text: str) -> list[str]:
    page = await ask(engine, number, text, limit=DEPTH)
    return [history.turns[position_of(hit.memory.id)].id for hit in page.hits]


@contextmanager
def _changed(changes: Sequence[_Change]) -> Iterator[None]:
    """The constants have other values inside; the last change of one wins."""
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    try:
        for module, name, value in changes:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


async def _main(files: Sequence[Path], keep: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for path in files:
            data_set = load(path)
            print(report.table(data_set.name, await rows(keep or Path(scratch), data_set)))
            print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="data sets (default: both development sets)")
    parser.add_argument("--keep", type=Path, help="data directory to keep and reuse")
    given = parser.parse_args()
    asyncio.run(_main(data_files(given.files), given.keep))
