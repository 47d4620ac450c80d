"""`polymem recall --explain`: what people read about a row of the mem9 API that carries a trace."""

from typing import Any

import pytest

from polymem.cli.explain import WIDTH_UNSEEN, print_explanations

TRACE: dict[str, Any] = {
    "score": 0.6421,
    "relevance": 0.8512,
    "arms": [
        {"arm": "lexical", "rank": 2, "score": 7.3111},
        {"arm": "dense within the time 1", "rank": 11, "score": 0.4094},
    ],
    "fused": 0.0323,
    "similarity": 0.4094,
    "late_interaction": {"narrow": 0.8, "wide": 0.9},
    "coverage": 0.6,
    "bm25": 0.25,
    "words": [
        {"word": "ferry", "weight": 0.6, "met": "Ferries", "cosine": 0.97},
        {"word": "lisbon", "weight": 0.4, "met": "", "cosine": 0.1},
    ],
    "parts": [
        {"part": "wide", "value": 0.6},
        {"part": "said_then", "value": 0.2421},
        {"part": "tells_of_then", "value": 0.0001},
        {"part": "length", "value": -0.2},
    ],
}
ROW = {"id": "m1", "created_at": "2026-01-01T00:00:00Z", "content": "Ferries leave at six", "trace": TRACE}
ROW_OF_WORDS = ROW | {
    "trace": {name: value for name, value in TRACE.items() if name not in {"similarity", "late_interaction"}}
    | {"arms": [], "words": []}
}


def printed(capsys: pytest.CaptureFixture[str], *rows: dict[str, Any]) -> str:
    print_explanations(rows, empty="nothing found")
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())


def test_an_explanation_reads_from_the_text_to_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, ROW) == (
        " ─ 1. score 0.642, relevance 0.85 ─────────────────────────────────────────────────────────────────\n"
        "  Ferries leave at six\n"
        "\n"
        "  memory            m1, 2026-01-01T00:00:00Z\n"
        "  found by          lexical: rank 2 (7.311); dense within the time 1: rank 11 (0.409)\n"
        "  rank fusion       0.0323\n"
        "  late interaction  narrow 0.800, wide 0.900\n"
        "  similarity        0.409\n"
        "  words             coverage 0.60, BM25 0.25\n"
        "\n"
        "  word asked  weight  met      cosine                       part of the score   value\n"
        "  ferry         0.60  Ferries    0.97                       wide               +0.600\n"
        "  lisbon        0.40  -          0.10                       said then          +0.242\n"
        "                                                            length             -0.200\n"
        "                                                            score, their sum    0.642\n"
        " ──────────────────────────────────────────────────────────────────────────────────────────────────"
    )


def test_a_row_without_arms_and_vectors_says_why_it_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, ROW_OF_WORDS).splitlines()

    assert lines[3:9] == [
        "  memory            m1, 2026-01-01T00:00:00Z",
        "  found by          no arm: it stands beside a turn that was found",
        "  rank fusion       0.0323",
        "  late interaction  no vectors",
        "  similarity        no vectors",
        "  words             coverage 0.60, BM25 0.25",
    ]
    assert lines[10] == "  no words were compared: there are no vectors              part of the score   value"


def test_every_row_has_its_number_and_no_row_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    both = printed(capsys, ROW, ROW_OF_WORDS)

    assert [line[3:8] for line in both.splitlines() if "relevance" in line] == ["1. sc", "2. sc"]
    assert printed(capsys) == "nothing found"


def test_stored_text_stays_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    words = [{"word": "w" * 900, "weight": 1.0, "met": "\x1b[2J[red]", "cosine": 0.5}]
    hostile = ROW | {
        "content": "\x1b[31mfirst\n\nsecond [bold]\x07 " + "long " * 900,
        "trace": TRACE | {"words": words},
    }

    out = printed(capsys, hostile)

    assert "\x1b" not in out
    assert "\x07" not in out
    assert out.splitlines()[1].startswith("   [31mfirst second [bold]")
    assert "wwwwwww…" in out
    assert " [2J[red]" in out
    assert max(map(len, out.splitlines())) <= WIDTH_UNSEEN
    assert len(out.splitlines()) < 20
