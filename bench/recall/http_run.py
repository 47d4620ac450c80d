"""`http`: a server of our own over HTTP, beside BM25 alone.

The server is started as a user starts it; each history is fed through the mem9 API under a key of its own. The API
has no time of asking, so questions are asked as of now.
"""

import json
from pathlib import Path

from bench.recall import report, server
from bench.recall.baseline_rows import bm25_row, recipe_row
from bench.recall.dataset import DataSet, History
from bench.recall.lab_engine import directory_of
from bench.recall.memories import DEPTH

OURS = "polymem over HTTP"
_KEYS = "keys.json"


def measure(root: Path, data_set: DataSet) -> bool:
    """The figures of one data set are printed; True when recall is better than each BM25 alone.

    Below `root` stay the data directory and the keys made for it; a later run asks without feeding.
    """
    stored = directory_of(root, data_set)
    home = stored.with_name(f"{stored.name}-http")
    data_dir = home / "data"
    data_dir.mkdir(parents=True, exist_ok=True)
    ours = report.Row(OURS)
    with server.running_server(data_dir) as running:
        keys, fed = _keys(running, home / _KEYS, data_set)
        for history, key in zip(data_set.histories, keys, strict=True):
            ours.add(history, _rankings(running, key, history, ours.seconds))
    others = [bm25_row(data_set), recipe_row(data_set)]
    parts = [
        report.title(data_set, ours),
        report.figures([*others, ours]),
        "Differences with 95 % intervals (paired bootstrap over the questions):",
        report.differences(ours, others),
        report.kinds([others[0], ours]),
        report.latency([ours]),
        report.size(data_set, server.size_of(data_dir)),
        fed,
    ]
    print("\n\n".join(parts), end="\n\n")
    return all(report.is_better(ours, other) for other in others)


def _keys(running: server.LabServer, kept: Path, data_set: DataSet) -> tuple[list[str], str]:
    """A key for each history, all whose turns are stored and embedded; and how long that took."""
    if kept.is_file():
        known: list[str] = json.loads(kept.read_text(encoding="utf-8"))
        return known, "Stored by an earlier run."
    keys, seconds = [], 0.0
    for history in data_set.histories:
        key, taken = server.feed(running, history)
        keys.append(key)
        seconds += taken
    job_seconds = server.wait_for_jobs(running)
    kept.write_text(json.dumps(keys), encoding="utf-8")
    speed = f"{data_set.turn_count / seconds:.0f}/s"
    return keys, f"Stored {data_set.turn_count} turns in {seconds:.1f} s ({speed}), jobs {job_seconds:.1f} s more."


def _rankings(running: server.LabServer, key: str, history: History, seconds: list[float]) -> dict[str, list[str]]:
    turn_of = {(turn.session_id, turn.seq): turn.id for turn in history.turns}
    found: dict[str, list[str]] = {}
    for question in history.scored:
        places, taken = server.ask(running, key, question.text, asked_at=question.asked_at, limit=DEPTH)
        seconds.append(taken)
        found[question.id] = [turn_of[place] for place in places]
    return found
