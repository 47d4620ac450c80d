"""The laboratory for size: what it takes for exact, and a whole small run on both storages."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from bench.recall import engine_run
from bench.recall.dataset import DataSet, History, LabTurn, Question, read_time
from bench.scale.exact import ExactTenant
from bench.scale.filling import Fill, Filled, fill
from bench.scale.run import ScaleOrder, run
from bench.scale.server import LabServer, lab_server
from bench.scale.sides import CountedIds, side
from bench.speed.vectors import Pieces
from polymem.domain.model import MemoryId, ModelIdentity
from polymem.inference.embedder import LocalEmbedder
from polymem.ports.changes import EmbeddedChunk, Embedding, IndexEntry, PutMemory
from polymem.ports.search import ArmHit
from polymem.storage.sqlite.storage import SqliteStorage
from postgres import PostgresServer
from samples import account_of, memory_of

NAMES = ("longmemeval-pooled.dev.json", "locomo-fixed.dev.json")
WORDS = ("amber", "birch", "copper", "dune", "ember", "fjord", "grove", "heath", "inlet", "jasper", "kiln", "larch")


def _put(name: str, terms: tuple[str, ...], vector: tuple[float, ...]) -> PutMemory:
    row = np.array(vector, dtype=np.float32)
    chunk = EmbeddedChunk(start=0, end=1, embedding=row, token_vectors=np.zeros((1, 4), dtype=np.int8))
    model = ModelIdentity(name="test", revision="1", dimension=len(vector), token_dimension=4)
    embedding = Embedding(model=model, chunks=(chunk,), is_complete=True)
    return PutMemory(memory=memory_of(account_of("a"), name), index=IndexEntry(terms=terms, embedding=embedding))


def _hits(*names: str) -> list[ArmHit]:
    return [ArmHit(MemoryId(name), 0.0) for name in names]


@pytest.fixture
def exact() -> ExactTenant:
    known = ExactTenant({"owl", "fox"})
    known.add([_put("near", ("owl", "fox"), (1, 0)), _put("like it", ("owl", "fox"), (1, 0))])
    known.add([_put("between", ("owl", "hen", "hen", "hen"), (0.6, 0.8)), _put("far", ("hen",), (0, 1))])
    return known


def test_the_share_found_counts_what_scores_as_high_as_the_best(exact: ExactTenant) -> None:
    cosines = exact.cosines(np.array([1, 0], dtype=np.float32))
    assert cosines == pytest.approx([1, 1, 0.6, 0], abs=1e-3)
    assert exact.share(_hits("like it"), cosines, cut=1) == 1.0
    assert exact.share(_hits("between", "near"), cosines, cut=1) == 0.0
    assert exact.share(_hits("near", "far"), cosines, cut=2) == 0.5
    assert exact.share(_hits("near", "like it", "between"), cosines, cut=3) == 1.0


def test_words_score_by_rarity_and_length_and_nothing_is_asked_of_those_that_stand_nowhere(exact: ExactTenant) -> None:
    scores = exact.word_scores(["owl", "fox", "yak"])
    assert scores[0] == scores[1] > scores[2] > scores[3] == 0.0
    assert exact.share(_hits("near", "like it", "between"), scores, cut=10) == 1.0
    assert exact.share(_hits("near", "far"), scores, cut=10) == pytest.approx(1 / 3)
    assert exact.share(_hits("near"), exact.word_scores(["yak"]), cut=10) is None


def test_ids_follow_from_a_name_and_ascend() -> None:
    ids, again, others = CountedIds("one"), CountedIds("one"), CountedIds("two")
    made = [ids.new_id() for _ in range(70_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {UUID(each).version for each in made[::1000]} == {7}
    assert made[0] == again.new_id() != others.new_id()
    assert UUID(ids.new_uuid4()).version == 4
    assert ids.new_secret() != ids.new_secret()


def test_a_database_beside_the_given_one_goes_unless_it_stays(postgres_server: PostgresServer) -> None:
    server = LabServer(postgres_server.url("postgres"), "", None)
    with server.database("lab", stays=False) as url:
        assert server.rows("SELECT current_database()", url=url)[0][0].startswith("postgres_lab_")
    for _ in range(2):
        with server.database("lab", stays=True) as url:
            server.rows("CREATE TABLE IF NOT EXISTS kept ()", url=url)
    left = {name for (name,) in server.rows("SELECT datname FROM pg_database WHERE datname LIKE 'postgres_lab%'")}
    assert left == {"postgres_lab"}
    assert server.rows("SELECT count(*) FROM kept", url=url) == [(0,)]
    server.rows("DROP DATABASE postgres_lab")
    assert (server.cpu_seconds(), server.memory_mb()) == (0.0, None)


def test_the_processes_of_a_server_behind_a_socket_are_measured(postgres_server: PostgresServer) -> None:
    assert postgres_server.process is not None
    with lab_server(postgres_server.url("postgres")) as server:
        assert (server.pid, server.is_own) == (postgres_server.process.pid, False)
        before = server.cpu_seconds()
        server.rows("SELECT count(*) FROM generate_series(1, 2000000)")
        assert server.cpu_seconds() > before
        assert (server.memory_mb() or 0) > 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    turns = [
        {"text": " ".join(WORDS[(start + step * place) % len(WORDS)] for place in range(24)) + f" number {start}."}
        for start in range(len(WORDS))
        for step in (1, 2, 4, 7)
    ]
    history: dict[str, Any] = {
        "sessions": [{"turns": turns}],
        "questions": [{"text": f"What is {word}?"} for word in WORDS],
    }
    folder = tmp_path / "data sets"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(json.dumps([history]), encoding="utf-8")
    return folder


async def test_a_small_run_tells_that_both_storages_find_the_same(
    data: Path, postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ScaleOrder(
        memories=120,
        tenants=2,
        shapes=("many",),
        questions=6,
        writes=3,
        database_url=postgres_server.url("postgres"),
        data=data,
        cache=None,
        keep=None,
        threads=1,
    )
    await run(order)
    printed = capsys.readouterr().out
    for line in (
        "### `many_120_2`: 120 memories, 2 tenants",
        "| SQLite | 1.0000 | 1.0 | 1.0000 | 1.0 |",
        "| PostgreSQL | 1.0000 | 1.0 | 1.0000 | 1.0 |",
        "overlap@10 1.0000, identical in order 100.0%, the same first 100.0%.",
        "| recall, 8 at a time |",
        "| words | 6 |",
        "| write without the model, PostgreSQL |",
        "| polymem.db |",
    ):
        assert line in printed


async def test_what_an_earlier_run_filled_is_not_filled_again(tmp_path: Path) -> None:
    model = ModelIdentity(name="test", revision="1", dimension=4, token_dimension=2)
    vectors = np.eye(4, dtype=np.float32)[[place % 4 for place in range(len(WORDS))]]
    tokens, ends = np.ones((len(WORDS), 2), dtype=np.int8), np.arange(1, len(WORDS) + 1)
    source = Pieces([f"{word} and more" for word in WORDS], vectors, tokens, ends)
    order = Fill(name="few", memories=40, tenants=2, source=source, model=model)
    embedder = LocalEmbedder(None, threads=1)

    async def filled(*names: str) -> Filled:
        async with AsyncExitStack() as stack:
            sides = []
            for name in names:
                storage = await SqliteStorage.open(tmp_path / name)
                stack.push_async_callback(storage.close)
                sides.append(side(name, storage, embedder))
            return await fill(sides, order, vocabulary={"amber"}, server_cpu=lambda: 0.0, seed=1)

    first, second = await filled("one"), await filled("one", "other")
    assert (list(first.commits), list(second.commits)) == (["one"], ["other"])
    assert [each.places for each in first.exact] == [each.places for each in second.exact]
    assert [len(each.places) for each in first.exact] == [20, 20]
    assert [each.tenant.id for each in first.accounts] == [each.tenant.id for each in second.accounts]


async def test_labelled_questions_are_told_of_both_storages_with_their_difference(
    tmp_path: Path, postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    said_at = read_time("1:56 pm on 8 May, 2023")
    turns = tuple(
        LabTurn(id=word, session_id="s", seq=place, speaker="Ann", text=f"We saw a {word}.", said_at=said_at)
        for place, word in enumerate(WORDS)
    )
    asked = tuple(
        Question(
            id=word,
            text=f"Who saw a {word}?",
            kind="plain",
            turns=frozenset({word}),
            sessions=frozenset({"s"}),
            is_abstention=False,
        )
        for word in WORDS[:3]
    )
    small = DataSet(name="small", histories=(History(id="h", turns=turns, questions=asked),))
    server = LabServer(postgres_server.url("postgres"), "", None)
    await engine_run.measure(tmp_path, small, threads=1, server=server)
    printed = capsys.readouterr().out
    assert "| polymem on PostgreSQL minus |" in printed
    assert "| polymem | +0.000 [+0.000, +0.000] |" in printed
    assert "Of 3 questions both storages rank the same turns in the same order: 3 in the first 10, 3 in" in printed
