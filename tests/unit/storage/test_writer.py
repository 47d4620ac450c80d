"""The writer thread and the readers: group commit, isolation of units, cancellation, closing."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from polymem.errors import StorageReadOnly, StorageUnavailable
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.driver import connect
from polymem.storage.sqlite.writer import UNITS_PER_COMMIT, Writer

Unit = Callable[[sqlite3.Connection], object]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "test.db", reader_count=2)
    await opened.write(lambda connection: connection.execute("CREATE TABLE notes (text TEXT NOT NULL)"))
    yield opened
    await opened.close()


class _Gate:
    """A unit that holds the writer up until it is opened, so that others queue behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _: sqlite3.Connection) -> None:
        self.entered.set()
        assert self.opened.wait(timeout=30)


def _note(text: str) -> Unit:
    return lambda connection: connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))


async def _notes(database: Database) -> list[str]:
    rows = await database.read(
        lambda connection: connection.execute("SELECT text FROM notes ORDER BY rowid").fetchall()
    )
    return [text for (text,) in rows]


async def _behind_gate(database: Database, units: list[Unit]) -> list[object]:
    """What each unit gave, when all of them waited while the writer was busy."""
    gate = _Gate()
    first = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 30)
    tasks = [asyncio.create_task(database.write(unit)) for unit in units]
    await asyncio.sleep(0)  # each task has handed its unit over
    gate.opened.set()
    await first
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_a_unit_gives_its_result_once_it_can_be_read(database: Database) -> None:
    assert await database.write(lambda connection: connection.execute("SELECT 41 + 1").fetchone()) == (42,)
    await database.write(_note("a"))
    assert await _notes(database) == ["a"]


async def test_units_that_wait_together_share_one_commit_up_to_the_bound(database: Database) -> None:
    statements: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(statements.append))
    count = 2 * UNITS_PER_COMMIT + 2
    await _behind_gate(database, [_note(str(number)) for number in range(count)])
    await database.write(lambda connection: connection.set_trace_callback(None))
    # The traced unit itself, the gate, and the three groups of the notes; the last one is not yet traced.
    assert statements.count("COMMIT") == 1 + 1 + 3
    assert await _notes(database) == [str(number) for number in range(count)]


async def test_a_large_unit_has_a_transaction_of_its_own_without_a_savepoint(database: Database) -> None:
    statements: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(statements.append))
    gate = _Gate()
    first = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 30)
    waiting = [
        asyncio.create_task(database.write(_note(text), is_large=text == "large"))
        for text in ("a", "b", "large", "c", "d")
    ]
    await asyncio.sleep(0)  # each task has handed its unit over
    gate.opened.set()
    await asyncio.gather(first, *waiting)
    await database.write(lambda connection: connection.set_trace_callback(None))
    kinds = [statement.split()[0] for statement in statements]
    pair = ["SAVEPOINT", "INSERT", "RELEASE"]
    together = ["BEGIN", *pair, *pair, "COMMIT"]
    assert kinds == ["COMMIT", "BEGIN", "COMMIT", *together, "BEGIN", "INSERT", "COMMIT", *together, "BEGIN"]
    assert await _notes(database) == ["a", "b", "large", "c", "d"]


async def test_a_unit_alone_that_raises_stores_nothing(database: Database) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes (text) VALUES ('lost')")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fails, is_large=True)
    await database.write(_note("kept"))
    assert await _notes(database) == ["kept"]


async def test_a_unit_that_raises_rolls_back_itself_alone(database: Database) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes VALUES ('lost')")
        raise ZeroDivisionError

    results = await _behind_gate(database, [_note("a"), fails, _note("b")])
    assert isinstance(results[1], ZeroDivisionError)
    assert await _notes(database) == ["a", "b"]


async def test_a_later_unit_of_a_group_sees_what_an_earlier_one_wrote(database: Database) -> None:
    def count(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM notes").fetchone()[0])

    results = await _behind_gate(database, [_note("a"), count, _note("b"), count])
    assert [results[1], results[3]] == [1, 2]


@pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), RecursionError()])
async def test_whatever_a_unit_raises_goes_to_its_caller_and_the_writer_lives_on(
    database: Database, error: Exception
) -> None:
    def fails(_: sqlite3.Connection) -> None:
        raise error

    with pytest.raises(type(error)):
        await database.write(fails)
    await database.write(_note("after"))
    assert await _notes(database) == ["after"]


async def test_text_that_cannot_be_encoded_does_not_stop_the_writer(database: Database) -> None:
    results = await _behind_gate(database, [_note("a"), _note("\udc80"), _note("nul \0 inside")])
    assert isinstance(results[1], UnicodeEncodeError)
    assert await _notes(database) == ["a", "nul \0 inside"]


async def test_a_wrong_statement_is_not_called_a_fault_of_the_storage(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await database.write(lambda connection: connection.execute("INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(sqlite3.OperationalError):
        await database.read(lambda connection: connection.execute("SELECT nothing FROM nowhere"))


async def test_when_the_commit_fails_every_unit_of_it_fails_and_nothing_is_stored(database: Database) -> None:
    await database.write(
        lambda connection: connection.execute("CREATE TABLE children (parent TEXT REFERENCES plans (name))")
    )

    def orphan(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("INSERT INTO children VALUES ('nobody')")

    def fails(_: sqlite3.Connection) -> None:
        raise ZeroDivisionError

    results = await _behind_gate(database, [_note("a"), orphan, fails, _note("b")])
    assert [type(result) for result in results] == [StorageUnavailable] * 4
    assert len({id(result) for result in results}) == 4
    assert all(isinstance(result, StorageUnavailable) and result.__cause__ is not None for result in results)
    assert await _notes(database) == []
    await database.write(_note("after"))
    assert await _notes(database) == ["after"]


async def test_when_a_unit_ends_the_transaction_every_unit_of_it_fails(database: Database) -> None:
    def ends(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise ZeroDivisionError

    results = await _behind_gate(database, [_note("a"), ends, _note("b")])
    assert [type(result) for result in results] == [StorageUnavailable] * 3
    assert await _notes(database) == []
    await database.write(_note("after"))
    assert await _notes(database) == ["after"]


async def test_a_write_that_another_process_keeps_waiting_is_refused_and_may_be_tried_again(
    database: Database,
) -> None:
    await database.write(lambda connection: connection.execute("PRAGMA busy_timeout = 20"))
    other = connect(database.path)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked by another process"):
            await database.write(_note("a"))
        assert await _notes(database) == []
        other.execute("COMMIT")
    finally:
        other.close()
    await database.write(_note("b"))
    assert await _notes(database) == ["b"]


async def test_a_full_queue_refuses_and_keeps_what_it_accepted(tmp_path: Path) -> None:
    connection = connect(tmp_path / "test.db")
    connection.execute("CREATE TABLE notes (text TEXT)")
    writer = Writer(connection, units_waiting=2)
    gate = _Gate()
    try:
        first = asyncio.create_task(writer.run(gate))
        await asyncio.to_thread(gate.entered.wait, 30)
        accepted = [asyncio.create_task(writer.run(_note(text))) for text in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(StorageUnavailable, match="too many writes"):
            await writer.run(_note("c"))
        gate.opened.set()
        await asyncio.gather(first, *accepted)
    finally:
        gate.opened.set()
        await asyncio.to_thread(writer.close)
    assert connection.execute("SELECT text FROM notes").fetchall() == [("a",), ("b",)]
    connection.close()


async def test_a_cancelled_caller_gives_up_the_answer_and_not_the_write(database: Database) -> None:
    gate = _Gate()
    first = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 30)
    task = asyncio.create_task(database.write(_note("kept")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    await first
    await database.write(_note("next"))
    assert await _notes(database) == ["kept", "next"]


def test_a_caller_whose_event_loop_has_ended_loses_the_answer_and_not_the_write(tmp_path: Path) -> None:
    connection = connect(tmp_path / "test.db")
    connection.execute("CREATE TABLE notes (text TEXT)")
    writer = Writer(connection)
    gate = _Gate()

    async def leaves() -> None:
        tasks = [asyncio.create_task(writer.run(unit)) for unit in (gate, _note("kept"))]
        await asyncio.to_thread(gate.entered.wait, 30)
        for task in tasks:
            task.cancel()

    asyncio.run(leaves())
    gate.opened.set()
    writer.close()
    assert connection.execute("SELECT text FROM notes").fetchall() == [("kept",)]
    connection.close()


async def test_closing_runs_what_was_accepted_and_refuses_what_comes_after(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "test.db")
    await database.write(lambda connection: connection.execute("CREATE TABLE notes (text TEXT)"))
    tasks = [asyncio.create_task(database.write(_note(str(number)))) for number in range(200)]
    await asyncio.sleep(0)
    await asyncio.gather(database.close(), database.close())
    await asyncio.gather(*tasks)
    with pytest.raises(StorageUnavailable):
        await database.write(_note("late"))
    with pytest.raises(StorageUnavailable):
        await database.read(lambda connection: connection.execute("SELECT 1"))
    again = await Database.open(tmp_path / "test.db")
    assert len(await _notes(again)) == 200
    await again.close()


# --- readers ---------------------------------------------------------------------------------------------


async def test_a_read_unit_sees_one_snapshot_whatever_is_written_meanwhile(database: Database) -> None:
    entered, written = threading.Event(), threading.Event()

    def unit(connection: sqlite3.Connection) -> list[int]:
        counts = [connection.execute("SELECT count(*) FROM notes").fetchone()[0]]
        entered.set()
        assert written.wait(timeout=30)
        counts += connection.execute("SELECT count(*) FROM notes").fetchone()
        return counts

    reading = asyncio.create_task(database.read(unit))
    await asyncio.to_thread(entered.wait, 30)
    await database.write(_note("a"))
    written.set()
    assert await reading == [0, 0]
    assert await _notes(database) == ["a"]


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageReadOnly):
        await database.read(_note("a"))
    assert await _notes(database) == []


async def test_more_reads_than_readers_are_all_answered(database: Database) -> None:
    await database.write(_note("a"))
    answers = await asyncio.gather(*(_notes(database) for _ in range(50)))
    assert answers == [["a"]] * 50


async def test_a_read_unit_that_raises_leaves_its_reader_usable(database: Database) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT 1 FROM notes")
        raise ZeroDivisionError

    results = await asyncio.gather(*(database.read(fails) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 5
    await database.write(_note("a"))
    assert await asyncio.gather(*(_notes(database) for _ in range(3))) == [["a"]] * 3


async def test_every_connection_is_durable_guarded_and_deletes_for_good(database: Database) -> None:
    def settings(connection: sqlite3.Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout", "query_only")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "busy_timeout": 5000,
    }
    assert await database.write(settings) == {**expected, "query_only": 0}
    assert await database.read(settings) == {**expected, "query_only": 1}
