"""The quick way through many vectors against comparing them all, and an index kept in step against one loaded anew."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.ports.changes import (
    Applied,
)
from polymem.storage.sqlite import vector_rows
from polymem.storage.sqlite.storage import SqliteStorage
from polymem.storage.sqlite.vector_rows import EXACT_ROWS, RowsView, sign_words
from samples import AT
from writer import ACCOUNT, FILTERS, MODEL, WORDS, Writer, unit

DIMENSION = 384
LIMIT = 128
ENOUGH = 0.98


def clustered(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Rows as texts give them: around centres, which stand around centres of their own, and not about zero."""
    topics = unit(random.standard_normal((40, DIMENSION)) + 0.3 * random.standard_normal(DIMENSION))
    centres = unit(topics[random.integers(0, len(topics), 2000)] + 0.04 * random.standard_normal((2000, DIMENSION)))
    spread = 0.035 * random.standard_normal((count, DIMENSION), np.float32)
    return unit(centres[random.integers(0, len(centres), count)] + spread)


def even(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Rows in all directions alike: the hardest there are, for every other row is about as far."""
    return unit(random.standard_normal((count, DIMENSION)))


def view_of(rows: NDArray[np.float32], positions: NDArray[np.int32]) -> RowsView:
    """The rows as they are in memory."""
    stored = rows.astype(np.float16)
    return RowsView(
        rows=stored,
        codes=tuple(sign_words(stored)),
        positions=positions,
        is_alive=np.ones(len(rows), dtype=np.bool_),
        most_rows=int(np.bincount(positions).max()),
    )


def best_positions(view: RowsView, vector: NDArray[np.float32], passes: NDArray[np.bool_]) -> dict[int, float]:
    """The nearest positions by comparing every row, each with the cosine of its best one."""
    rows = view.rows.astype(np.float32)
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ vector
    best = np.full(len(passes), -np.inf)
    np.maximum.at(best, view.positions, cosines)
    best[~passes] = -np.inf
    order = np.lexsort((np.arange(len(best)), -best))[:LIMIT]
    return {int(position): float(best[position]) for position in order if best[position] > -np.inf}


def found_positions(view: RowsView, vector: NDArray[np.float32], passes: NDArray[np.bool_]) -> dict[int, float]:
    """The same by the quick way."""
    positions, cosines = view.nearest(vector, view.select(passes), documents=LIMIT)
    best: dict[int, float] = {}
    for position, cosine in zip(positions.tolist(), cosines.tolist(), strict=True):
        best[position] = max(cosine, best.get(position, cosine))
    return dict(sorted(best.items(), key=lambda item: (-item[1], item[0]))[:LIMIT])


def share_found(view: RowsView, questions: NDArray[np.float32], passes: NDArray[np.bool_]) -> float:
    """Of the nearest by comparing all, how many the quick way finds; what it finds has its exact cosine."""
    shares = []
    for question in questions:
        expected, found = best_positions(view, question, passes), found_positions(view, question, passes)
        assert len(found) == len(expected)
        both = expected.keys() & found.keys()
        assert {each: found[each] for each in both} == pytest.approx({each: expected[each] for each in both}, abs=1e-5)
        shares.append(len(both) / len(expected))
    return float(np.mean(shares))


@pytest.mark.parametrize("count", [EXACT_ROWS + 1, 80_000])
def test_of_many_clustered_vectors_nearly_all_of_the_nearest_are_found(count: int) -> None:
    random = np.random.default_rng(count)
    rows = clustered(random, count)
    questions = unit(rows[random.integers(0, count, 12)] + 0.04 * random.standard_normal((12, DIMENSION)))
    view = view_of(rows, np.arange(count, dtype=np.int32))
    assert share_found(view, questions, np.ones(count, dtype=np.bool_)) >= ENOUGH


def test_vectors_in_all_directions_alike_still_give_the_nearest_of_each() -> None:
    random = np.random.default_rng(1)
    count = 40_000
    rows = even(random, count)
    asked = random.integers(0, count, 20)
    view = view_of(rows, np.arange(count, dtype=np.int32))
    passes = np.ones(count, dtype=np.bool_)
    for row in asked.tolist():
        question = unit(rows[row] + 0.05 * random.standard_normal(DIMENSION))
        assert next(iter(found_positions(view, question, passes))) == row


@pytest.mark.parametrize("share", [0.9, 0.5, 0.01])
def test_under_a_filter_nearly_all_that_pass_are_found_and_all_where_few_pass(share: float) -> None:
    random = np.random.default_rng(7)
    count = 80_000
    rows = clustered(random, count)
    questions = unit(rows[random.integers(0, count, 8)] + 0.04 * random.standard_normal((8, DIMENSION)))
    view = view_of(rows, np.arange(count, dtype=np.int32))
    passes = random.random(count) < share
    found = share_found(view, questions, passes)
    assert found == 1.0 if np.count_nonzero(passes) <= EXACT_ROWS else found >= ENOUGH


def test_up_to_the_threshold_the_nearest_are_found_exactly() -> None:
    random = np.random.default_rng(3)
    rows = even(random, EXACT_ROWS)
    view = view_of(rows, np.arange(EXACT_ROWS, dtype=np.int32))
    assert share_found(view, unit(random.standard_normal((10, DIMENSION))), np.ones(EXACT_ROWS, dtype=np.bool_)) == 1.0


def test_texts_of_many_chunks_near_the_question_do_not_push_the_others_out() -> None:
    random = np.random.default_rng(5)
    long = unit(np.ones(DIMENSION) + 0.1 * random.standard_normal((30_000, DIMENSION)))
    short = clustered(random, 30_000)
    positions = np.concatenate([np.repeat(np.arange(10), 3000), np.arange(10, 30_010)]).astype(np.int32)
    view = view_of(np.concatenate([long, short]), positions)
    found = found_positions(view, unit(np.ones(DIMENSION)), np.ones(30_010, dtype=np.bool_))
    assert len(found) == LIMIT
    assert set(range(10)) <= found.keys()


# --- an index kept in step, and one loaded anew -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_after_any_changes_the_index_kept_in_step_answers_as_one_loaded_anew_and_nearly_as_the_exact_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(vector_rows, "EXACT_ROWS", 300)
    monkeypatch.setattr(vector_rows, "_CANDIDATES", 10)
    monkeypatch.setattr(vector_rows, "_FEWEST_DOCUMENTS", 1)
    writer = Writer(seed)
    kept = await SqliteStorage.open(tmp_path, owns_directory=False)
    await kept.directory.create_account(ACCOUNT)
    store = kept.tenant(ACCOUNT.tenant.id)
    await store.commit([writer.put() for _ in range(900)], now=AT)
    shares: list[float] = []
    for _ in range(6):
        for _ in range(4):
            assert isinstance(await store.commit(writer.changes(), now=AT), Applied)
        fresh = await SqliteStorage.open(tmp_path, owns_directory=False)
        for where in FILTERS:
            question, terms = writer.question(), tuple(writer.random.sample(WORDS, 5))
            indexes = [storage.search(ACCOUNT.tenant.id) for storage in (kept, fresh)]
            lexical = [await index.lexical(terms, where, limit=40) for index in indexes]
            assert lexical[0] == lexical[1]
            counted = [await index.words(terms, terms, where, limit=40, most=3) for index in indexes]
            assert counted[0] == counted[1]
            dense = [await index.dense(question, MODEL, where, limit=40) for index in indexes]
            assert dense[0] == dense[1]
            with monkeypatch.context() as patched:
                patched.setattr(vector_rows, "EXACT_ROWS", 1 << 30)
                exact = await indexes[0].dense(question, MODEL, where, limit=40)
            both = {hit.memory_id: hit.score for hit in exact}.items() & {
                hit.memory_id: hit.score for hit in dense[0]
            }.items()
            shares.append(len(both) / max(len(exact), 1))
        await fresh.close()
    assert np.mean(shares) >= ENOUGH
    await kept.close()
