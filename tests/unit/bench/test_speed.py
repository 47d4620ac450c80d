"""The speed laboratory's texts, and its client against a server of a few lines."""

import asyncio
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bench.speed import client
from bench.speed.texts import PIECE_CHARACTERS, data_files, mixed, new_texts, pieces, queries, questions

LONG = "This sentence has some forty characters. " * 20


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    history: dict[str, Any] = {
        "sessions": [{"turns": [{"text": LONG}, {"text": "x" * 500}, {"text": "too short"}]}],
        "questions": [{"text": "who?"}, {"text": "who?"}, {"text": "when?"}],
    }
    for name in ("longmemeval-pooled.dev.json", "locomo-fixed.dev.json"):
        (tmp_path / name).write_text(json.dumps([history]), encoding="utf-8")
    return data_files(tmp_path)


def test_pieces_are_distinct_parts_of_turns_ended_at_a_sentence_if_there_is_one(data: list[Path]) -> None:
    found = pieces(data, most=100)
    assert len(found) == len(set(found))
    assert all(100 < len(piece) <= PIECE_CHARACTERS for piece in found)
    assert any(piece.endswith("characters.") for piece in found)
    assert len(pieces(data, most=1)) == 1


def test_no_question_is_asked_twice_and_a_seed_repeats_them_all(data: list[Path]) -> None:
    known, source = questions(data), ["one two three four five six seven eight nine ten"] * 2
    assert sorted(known) == ["when?", "who?"]
    asked = list(islice(queries(known, source, seed=1), 12))
    assert len(set(asked)) == len(asked)
    assert set(known) <= set(asked)
    assert asked == list(islice(queries(known, source, seed=1), 12))


def test_a_mixed_text_begins_as_one_and_ends_as_the_other() -> None:
    assert mixed("a b c d", "e f g h", 0.5) == "a b g h"
    assert len(set(islice(new_texts(["a b c", "d e f"], seed=1), 5))) == 5


async def test_the_client_counts_every_answer_and_keeps_the_bad_ones() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            status = b"404 Not Found" if b"/bad" in head else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nhel")
            await writer.drain()
            writer.write(b"lo")

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(quiet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    requests = [client.request("GET", "/good", "key")] * 5 + [client.request("GET", "/bad", "key")]
    outcome = await asyncio.to_thread(client.drive, port, requests, 2)
    server.close()
    assert len(outcome.latencies) == 6
    assert [text.splitlines()[0] for text in outcome.bad] == ["HTTP/1.1 404 Not Found"]
