"""Every text is stored, NUL and the escape too, and found by what it is."""

from collections.abc import AsyncIterator

import pytest

from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from postgres import PostgresServer

TEXTS = ["", "plain", "\0", "a\0b\0", "\x10", "\x100", "\x101", "\0\x10", "\x10\0", "0\x10\x10", "ü\0😀"]


@pytest.fixture
async def connection(postgres_server: PostgresServer) -> AsyncIterator[Connection]:
    database = await Database.open(postgres_server.new_database(), connections=1, patience_seconds=5.0)
    async with await database.alone() as connection:
        await connection.execute("CREATE TEMPORARY TABLE texts (one text, many text[])")
        yield connection
    await database.close()


@pytest.mark.parametrize("is_binary", [True, False])
async def test_texts_come_back_as_they_were_given_and_are_told_apart(
    connection: Connection, *, is_binary: bool
) -> None:
    for text in TEXTS:
        await connection.execute("INSERT INTO texts VALUES (%s, %s)", (text, [text, "x"]))
    cursor = await connection.execute("SELECT one, many FROM texts", binary=is_binary)
    assert await cursor.fetchall() == [(text, [text, "x"]) for text in TEXTS]
    for text in TEXTS:
        cursor = await connection.execute("SELECT one FROM texts WHERE one = %s AND many @> %s::text[]", (text, [text]))
        assert await cursor.fetchall() == [(text,)]


@pytest.mark.parametrize("form", ["TEXT", "BINARY"])
async def test_texts_that_are_copied_in_come_back_as_they_were_given(connection: Connection, form: str) -> None:
    async with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY texts FROM STDIN (FORMAT {form})".encode()) as copy,
    ):
        copy.set_types(["text", "text[]"])
        for text in TEXTS:
            await copy.write_row((text, [text]))
    cursor = await connection.execute("SELECT one, many FROM texts")
    assert await cursor.fetchall() == [(text, [text]) for text in TEXTS]
