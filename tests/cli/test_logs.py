"""What log lines look like, and which are written."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from polymem.cli.logs import JsonLines, TextLines, configure_logging
from polymem.config import Settings


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    quiet = [logging.getLogger(name) for name in ("uvicorn", "httpx", "httpcore", "asyncio", "psycopg")]
    before = root.handlers[:], root.level, [logger.level for logger in quiet]
    yield
    root.handlers[:], root.level = before[0], before[1]
    for logger, level in zip(quiet, before[2], strict=True):
        logger.setLevel(level)


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "polymem.test", "levelname": "INFO", "msg": message, **extra})
    made.created = 1_767_225_600.25
    return made


def broken(message: str) -> logging.LogRecord:
    try:
        return record(message, status=int("not a number"))
    except ValueError:
        return record(message, exc_info=sys.exc_info())


def test_a_json_line_holds_the_message_and_what_was_given_with_it() -> None:
    line = json.loads(JsonLines().format(record("request", status=200, path="/ö")))

    assert line == {
        "time": "2026-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "polymem.test",
        "message": "request",
        "status": 200,
        "path": "/ö",
    }


def test_a_json_line_with_an_exception_is_still_one_line() -> None:
    text = JsonLines().format(broken("failed"))

    assert "\n" not in text
    assert "ValueError" in json.loads(text)["exception"]


def test_a_text_line_holds_the_message_and_what_was_given_with_it() -> None:
    assert TextLines().format(record("request", status=200)) == "2026-01-01T00:00:00.250Z info request status=200"


def test_a_message_cannot_forge_a_second_text_line() -> None:
    text = TextLines().format(record("one\n2026-01-01T00:00:00Z error two", agent="x\r\ny"))

    assert len(text.splitlines()) == 1


def test_a_text_line_is_followed_by_its_exception() -> None:
    lines = TextLines().format(broken("failed")).splitlines()

    assert lines[0].endswith("info failed")
    assert lines[-1].startswith("ValueError")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_only_what_is_severe_enough_is_written_and_libraries_are_quiet(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure_logging(Settings(log_format=log_format, log_level="info"))  # type: ignore[arg-type]  # a parameter
    log = logging.getLogger("polymem.test")
    log.debug("hidden")
    log.info("shown")
    logging.getLogger("httpx").info("hidden")
    logging.getLogger("uvicorn.error").warning("told")

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "shown" in lines[0]
    assert "told" in lines[1]


@pytest.mark.parametrize(("level", "told"), [("info", 0), ("debug", 1)])
def test_each_try_to_reach_a_database_is_told_only_to_who_asks_for_everything(
    capsys: pytest.CaptureFixture[str], level: str, told: int
) -> None:
    configure_logging(Settings(log_level=level))  # type: ignore[arg-type]  # a parameter
    logging.getLogger("psycopg.pool").warning("error connecting")

    assert capsys.readouterr().err.count("error connecting") == told
