"""Log lines on standard error: for people, or one JSON object each."""

import json
import logging
import sys
import time
from typing import Any

from polymem.config import Settings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_QUIET = ("uvicorn", "httpx", "httpcore", "asyncio")
# A pool of connections tells each of its tries while the database is away; that it is away, others tell.
_SILENT = "psycopg"


def configure_logging(settings: Settings) -> None:
    """Everything logged at `log_level` or above goes to standard error in `log_format`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.getLogger(_SILENT).setLevel(logging.NOTSET if root.level == logging.DEBUG else logging.ERROR)


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and whatever the caller gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        line: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """Time, level, message and extras as `name=value`; an exception follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, on one line unless it carries an exception."""
        extras = "".join(f" {name}={value}" for name, value in _extra(record).items())
        told = record.getMessage() + extras
        if not told.isprintable():
            told = "".join(each if each.isprintable() else repr(each)[1:-1] for each in told)
        line = f"{_iso(record.created)} {record.levelname.lower()} {told}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _iso(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"
