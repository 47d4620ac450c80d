"""Limits of plans over the end of a server process: what was used stays used, however it ended."""

import json
import signal
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from postgres import PostgresServer
from processes import Server, run, serving

REFUSED = 429
MOST_REQUESTS = 500


@pytest.fixture(params=["sqlite", "postgres"])
def variables(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """What puts a server on a database of this kind."""
    if request.param == "sqlite":
        return {}
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return {"POLYMEM_DATABASE_URL": server.new_database()}


def put_on_plan(server: Server, variables: Mapping[str, str], plan: str) -> None:
    """The tenant of the server's key is on the plan, and the server knows it."""
    place = ("--data-dir", str(server.data_dir), "--json")
    tenants = json.loads(run("tenants", "list", *place, variables=variables).stdout)
    changed = run("tenants", "set", tenants[0]["id"], "--plan", plan, *place, variables=variables)
    assert changed.returncode == 0, changed.stderr


def until_refused(client: httpx.Client, **params: str) -> tuple[int, httpx.Response]:
    """How many requests were answered before one was refused, and that refusal."""
    for count in range(MOST_REQUESTS):
        answer = client.get("/memories", params=params)
        if answer.status_code == REFUSED:
            return count, answer
        assert answer.status_code == 200, answer.text
    pytest.fail("no request was refused")


def end(server: Server, how: signal.Signals) -> None:
    """The server has ended; one that is killed had a moment since its last request."""
    httpx.get(f"{server.url}/readyz", trust_env=False)
    server.stop(how)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_minute_that_was_used_up_is_still_used_up_after_a_restart(
    tmp_path: Path, variables: Mapping[str, str], how: signal.Signals
) -> None:
    with serving(tmp_path, variables=variables) as server:
        put_on_plan(server, variables, "free")
        with server.client() as client:
            began = time.monotonic()
            count, refused = until_refused(client)
            ended = time.monotonic()
        end(server, how)
    assert 60 <= count <= 60 + (ended - began) + 1
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit"] == "60"
    assert refused.headers["x-ratelimit-remaining"] == "0"

    with serving(tmp_path, variables=variables) as again:
        with again.client() as client:
            count, refused = until_refused(client)
        # The minute goes on: a token came back each second.
        assert count <= time.monotonic() - ended + 2
        assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_day_that_was_used_up_is_still_used_up_after_a_restart(
    tmp_path: Path, variables: Mapping[str, str], how: signal.Signals
) -> None:
    plan = ("plans", "set", "asks", "--requests-per-minute", "6000", "--queries-per-day", "3")
    with serving(tmp_path, variables=variables) as server:
        today = datetime.now(UTC).date()
        assert run(*plan, "--data-dir", str(tmp_path), variables=variables).returncode == 0
        put_on_plan(server, variables, "asks")
        with server.client() as client:
            count, refused = until_refused(client, q="anything")
            assert client.get("/memories").status_code == 200
        end(server, how)
    with serving(tmp_path, variables=variables) as again, again.client() as client:
        counted_again, refused_again = until_refused(client, q="anything")
    if datetime.now(UTC).date() != today:
        pytest.skip("a new day began during this test")
    assert (count, counted_again) == (3, 0)
    for answer in (refused, refused_again):
        assert answer.json() == {"error": "plan limit reached: 3 queries a day"}
        assert 1 <= int(answer.headers["retry-after"]) <= 86_400


def test_a_stop_gives_back_the_queries_that_were_not_used(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        put_on_plan(server, {}, "free")
        for _ in range(3):
            assert server.found("anything") == []
        assert server.stop() == 0
    with closing(sqlite3.connect(tmp_path / "polymem.db")) as database:
        assert database.execute("SELECT sum(used) FROM daily_queries").fetchone() == (3,)
