"""Commands over a data directory on which no server runs."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from polymem import __version__
from polymem.__main__ import main
from polymem.bootstrap import Uuid7Ids, open_administration
from polymem.cli import app
from polymem.cli.documentation import pages
from polymem.cli.output import ExitStatus, exit_status
from polymem.config import KNOWN_DIALECTS, TABLE, Settings
from polymem.domain.model import JobId, JobKind, Scope
from polymem.engine.queueing import RULES, new_job
from polymem.errors import ErrorCode
from polymem.http.app import known_dialects
from polymem.ports.changes import AddJob
from polymem.storage.sqlite.storage import SqliteStorage

DOCS = Path(__file__).parents[2] / "docs"
SECRET = "pm_the-first-key-of-these-tests"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("POLYMEM_DATA_DIR", raising=False)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with the first tenant in it, as a first start leaves it."""
    folder = tmp_path / "data"

    async def first_start() -> None:
        storage = await SqliteStorage.open(folder)
        await storage.close()
        async with open_administration(Settings(data_dir=folder)) as admin:
            await admin.keys.first_start(secret=SECRET)

    asyncio.run(first_start())
    (folder / "key").write_text(SECRET)
    (folder / "key").chmod(0o600)
    return folder


class Shell:
    """Runs commands in this process and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
        self._capsys = capsys
        self._where = ("--data-dir", str(data_dir))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *self._where])
        printed = self._capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    def json(self, *arguments: str) -> Any:
        status, out, err = self(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], data_dir: Path) -> Shell:
    return Shell(capsys, data_dir)


# --- the frame -------------------------------------------------------------------------------------------


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"polymem {__version__}\n"


def test_the_pages_about_settings_and_commands_are_up_to_date() -> None:
    for name, text in pages(app).items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"docs/{name}: run `polymem docs`"


def test_stale_pages_are_found_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status in ((["--check"], 1), ([], 0), (["--check"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(["docs", str(tmp_path), *arguments])
        assert ended.value.code == status
    assert "out of date: settings.md, cli.md" in capsys.readouterr().err


def test_every_command_explains_itself() -> None:
    def commands(name: str, command: Any) -> list[tuple[str, Any]]:
        children = getattr(command, "commands", {})
        below = [each for child, found in children.items() for each in commands(f"{name} {child}", found)]
        return below or [(name, command)]

    for name, command in commands("polymem", typer.main.get_command(app)):
        assert command.help, name
        for parameter in command.params:
            assert parameter.help or parameter.name == "help", f"{name} {parameter.name}"


def test_every_error_code_has_an_exit_status_and_success_none() -> None:
    for code in ErrorCode:
        assert exit_status(code) is not ExitStatus.OK
    assert all(status.meaning for status in ExitStatus)


def test_the_dialects_a_setting_can_name_are_those_that_are_built() -> None:
    assert known_dialects() == KNOWN_DIALECTS


def test_ids_are_uuid7_and_sort_in_the_order_they_were_made() -> None:
    ids = Uuid7Ids()
    made = [ids.new_id() for _ in range(5000)]

    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each) for each in made
    )


def test_an_unknown_option_is_a_usage_error(shell: Shell) -> None:
    status, _, err = shell("keys", "list", "--loud")

    assert status == 2
    assert "--loud" in err


def test_a_fault_of_ours_is_told_in_one_line_after_its_traceback(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("polymem.cli.accounts.open_administration", broken)
    status, _, err = shell("keys", "list")

    assert status == 70
    assert err.splitlines()[-1].startswith("polymem: unexpected error (ZeroDivisionError)")
    assert "ZeroDivisionError" in caplog.text


# --- settings --------------------------------------------------------------------------------------------


def test_the_settings_in_force_are_shown_with_their_source_and_secrets_masked(
    shell: Shell, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "polymem.toml").write_text("log_format = 'json'")
    monkeypatch.setenv("POLYMEM_KEY", "pm_nobody-must-see-this")

    rows = {row["setting"]: row for row in shell.json("settings", "--port", "9")}
    status, table, _ = shell("settings", "--port", "9")

    assert list(rows) == [row.name for row in TABLE]
    assert (rows["port"]["value"], rows["port"]["source"]) == ("9", "command line (--port)")
    assert (rows["log_format"]["value"], rows["log_format"]["source"]) == (
        "json",
        f"file ({data_dir / 'polymem.toml'})",
    )
    assert (rows["key"]["value"], rows["key"]["source"]) == ("********", "environment (POLYMEM_KEY)")
    assert rows["host"]["source"] == "default"
    assert status == 0
    assert "nobody-must-see-this" not in table + json.dumps(rows)


@pytest.mark.parametrize("command", ["settings", "doctor", "keys list", "recall x"])
def test_a_wrong_settings_file_stops_every_command_with_one_line(shell: Shell, data_dir: Path, command: str) -> None:
    (data_dir / "polymem.toml").write_text("prot = 1")

    status, out, err = shell(*command.split())

    assert (status, out) == (2, "")
    assert err == f"polymem: unknown setting prot in {data_dir / 'polymem.toml'}; did you mean port?\n"


# --- keys, tenants, users, plans -------------------------------------------------------------------------


def test_a_key_is_made_listed_and_revoked(shell: Shell) -> None:
    made = shell.json("keys", "create", "--name", "reader", "--scopes", "read", "--expires", "2999-01-31")
    listed = shell.json("keys", "list")
    revoked = shell.json("keys", "revoke", made["id"])

    secret = made.pop("secret")
    assert secret.startswith("pm_")
    assert made["scopes"] == ["read"]
    assert made["expires_at"] == "2999-01-31T00:00:00Z"
    assert made["prefix"] == secret[: len(made["prefix"])]
    assert [row["name"] for row in listed] == ["first key", "reader"]
    assert listed[1] == made
    assert sorted(listed[0]["scopes"]) == sorted(Scope)
    assert revoked == {**made, "revoked_at": revoked["revoked_at"]}
    assert shell.json("keys", "revoke", made["id"]) == revoked


def test_a_secret_is_printed_once_and_stored_nowhere(shell: Shell, data_dir: Path) -> None:
    _, out, _ = shell("keys", "create")

    secret = out.splitlines()[0]
    assert secret.startswith("pm_")
    assert "cannot be shown again" in out
    assert secret not in shell("keys", "list")[1]
    assert all(secret.encode() not in file.read_bytes() for file in data_dir.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["keys", "create", "--scopes", "read,fly"], 2, "scopes: allowed are read, write"),
        (["keys", "create", "--scopes", ""], 2, "at least one scope"),
        (["keys", "create", "--expires", "soon"], 2, "expires: not an ISO 8601 time"),
        (["keys", "create", "--expires", "2001-01-01"], 2, "must be in the future"),
        (["keys", "create", "--tenant", "nobody"], 1, "tenant not found"),
        (["keys", "create", "--user", "nobody"], 1, "user not found"),
        (["keys", "list", "--tenant", "nobody"], 1, "tenant not found"),
        (["keys", "revoke", "nothing"], 1, "key not found"),
        (["tenants", "create", "x", "--plan", "gold"], 1, "plan not found"),
        (["tenants", "set", "nobody", "--name", "x"], 1, "tenant not found"),
        (["users", "create", "x", "--tenant", "nobody"], 1, "tenant not found"),
        (["plans", "set", "x", "--requests-per-minute", "0"], 2, "must be from 1"),
        (["plans", "set", "x", "--requests-per-minute", "1", "--queries-per-day", "0"], 2, "must be from 1"),
        (["jobs", "retry", "nothing"], 1, "job not found"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(shell: Shell, arguments: list[str], status: int, words: str) -> None:
    ended, out, err = shell(*arguments)

    assert (ended, out) == (status, "")
    assert err.startswith("polymem: ")
    assert words in err
    assert err.count("\n") == 1


def test_tenants_users_and_plans_are_made_changed_and_listed(shell: Shell) -> None:
    plan = shell.json(
        "plans", "set", "small", "--requests-per-minute", "60", "--max-memories", "10", "--queries-per-day", "5"
    )
    made = shell.json("tenants", "create", "guests", "--plan", "small")
    changed = shell.json("tenants", "set", made["tenant"], "--name", "visitors", "--inactive")
    user = shell.json("users", "create", "ada", "--tenant", made["tenant"])
    key = shell.json("keys", "create", "--tenant", made["tenant"], "--user", user["id"])

    assert plan == {
        "name": "small",
        "requests_per_minute": 60,
        "burst": 60,
        "max_memories": 10,
        "queries_per_day": 5,
    }
    assert plan in shell.json("plans", "list")
    assert (changed["name"], changed["plan"], changed["active"]) == ("visitors", "small", False)
    assert changed in shell.json("tenants", "list")
    assert user in shell.json("users", "list", "--tenant", made["tenant"])
    assert user not in shell.json("users", "list")
    assert key["user"] == user["id"]
    assert [row["id"] for row in shell.json("keys", "list", "--tenant", made["tenant"])] == [
        made["id"],
        key["id"],
    ]


def test_every_database_has_the_plans_that_are_named(shell: Shell) -> None:
    per_minute = {row["name"]: (row["requests_per_minute"], row["burst"]) for row in shell.json("plans", "list")}
    most = {row["name"]: (row["queries_per_day"], row["max_memories"]) for row in shell.json("plans", "list")}
    made = shell.json("tenants", "create", "guests", "--plan", "free")

    assert per_minute == {"free": (60, 60), "pro": (600, 600), "team": (3000, 3000), "self-hosted": (60_000, 60_000)}
    assert most == {
        "free": (1000, 10_000),
        "pro": (50_000, 500_000),
        "team": (500_000, 5_000_000),
        "self-hosted": (None, None),
    }
    assert shell.json("tenants", "set", made["tenant"], "--plan", "pro")["plan"] == "pro"


def test_lists_are_tables_for_people(shell: Shell) -> None:
    for group, rows in {"keys": 1, "tenants": 1, "users": 1, "plans": 4}.items():
        status, out, _ = shell(group, "list")
        assert status == 0
        assert len(out.splitlines()) == 1 + rows


def test_changes_are_told_in_a_sentence(shell: Shell) -> None:
    tenant = shell.json("tenants", "list")[0]["id"]
    key = shell.json("keys", "create")["id"]

    assert "called ours, on plan self-hosted" in shell("tenants", "set", tenant, "--name", "ours")[1]
    assert "was made, called bob" in shell("users", "create", "bob")[1]
    assert (
        "5 requests a minute, 9 at once, any number of memories, any number of queries a day"
        in (shell("plans", "set", "tiny", "--requests-per-minute", "5", "--burst", "9")[1])
    )
    assert f"key {key} was revoked at" in shell("keys", "revoke", key)[1]


def test_no_database_is_made_by_a_command_that_only_looks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = Shell(capsys, tmp_path / "typo")("keys", "list")

    assert status == 2
    assert f"no database in {tmp_path / 'typo'}" in err
    assert not (tmp_path / "typo").exists()


# --- jobs, doctor, memories ------------------------------------------------------------------------------


def test_without_jobs_the_list_says_so(shell: Shell) -> None:
    assert shell("jobs", "list")[1] == "no jobs\n"
    assert shell.json("jobs", "list", "--failed") == []


def park_a_job(data_dir: Path, error: str) -> str:
    """An embed job of the first tenant is parked with this error; its id."""
    now = datetime(2026, 1, 1, tzinfo=UTC)

    async def park() -> str:
        async with open_administration(Settings(data_dir=data_dir)) as admin:
            user = (await admin.accounts.list_users((await admin.accounts.list_tenants())[0].id))[0]
            job = new_job(
                JobId(Uuid7Ids().new_id()),
                JobKind.EMBED,
                tenant_id=user.tenant_id,
                user_id=user.id,
                space_id=user.personal_space_id,
                payload={"memory_ids": []},
                now=now,
            )
            await admin.storage.tenant(user.tenant_id).commit([AddJob(job=job)], now=now)
            queues = frozenset({job.queue})
            held = await admin.storage.jobs.claim(queues=queues, now=now, lease_until_at=now)
            assert held is not None
            await admin.storage.jobs.park(held.tenant_id, held.id, fence=held.fence, error=error, now=now)
            return held.id

    return asyncio.run(park())


def test_a_parked_job_is_listed_found_by_the_doctor_and_queued_again(shell: Shell, data_dir: Path) -> None:
    job_id = park_a_job(data_dir, "the model was away")

    (parked,) = shell.json("jobs", "list", "--failed")
    status, out, _ = shell("doctor", "--json")
    retried = shell.json("jobs", "retry", job_id)
    again, _, err = shell("jobs", "retry", job_id)

    assert (parked["id"], parked["state"], parked["error"]) == (job_id, "failed", "the model was away")
    assert status == 1
    assert [each["check"] for each in json.loads(out)["findings"] if not each["ok"]] == ["backlog"]
    most = RULES[JobKind.EMBED].max_attempts
    assert (retried["state"], retried["attempts"], retried["error"]) == ("queued", f"0/{most}", None)
    assert (again, err) == (1, f"polymem: job {job_id} is not parked\n")
    assert shell.json("jobs", "list", "--failed") == []


def test_a_retried_job_is_told_in_a_sentence(shell: Shell, data_dir: Path) -> None:
    job_id = park_a_job(data_dir, "x")

    assert shell("jobs", "retry", job_id)[1] == f"job {job_id} is queued again\n"


def test_the_doctor_finds_a_new_directory_well(shell: Shell) -> None:
    report = shell.json("doctor")
    status, table, _ = shell("doctor")

    assert report["ok"] is True
    checks = [each["check"] for each in report["findings"]]
    assert checks[:5] == ["data directory", "key file", "free space", "server", "model"]
    assert checks[-1] == "backlog"
    assert set(report["findings"][0]) == {"check", "ok", "message", "compared"}
    assert status == 0
    assert table.splitlines()[-1] == "all is well"


def test_the_doctor_names_what_others_may_read_and_changes_nothing(shell: Shell, data_dir: Path) -> None:
    data_dir.chmod(0o755)
    (data_dir / "key").chmod(0o644)

    status, out, _ = shell("doctor", "--json")

    found = [each["check"] for each in json.loads(out)["findings"] if not each["ok"]]
    assert (status, found) == (1, ["data directory", "key file"])
    assert data_dir.stat().st_mode & 0o777 == 0o755
    assert "2 of" in shell("doctor")[1].splitlines()[-1]


def test_the_doctor_cannot_open_what_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = Shell(capsys, tmp_path / "typo")("doctor", "--json")

    report = json.loads(out)
    assert status == 2
    assert report["ok"] is False
    assert "no database" in report["findings"][-1]["message"]


def test_a_text_is_written_and_recalled_without_a_server(shell: Shell) -> None:
    written = shell.json("write", "The bicycle is in the shed", "--tags", "home, garden")
    shell("write", "Lunch is at noon")
    rows = shell.json("recall", "where is the bicycle")
    status, table, _ = shell("recall", "where is the bicycle", "--limit", "1")

    assert (rows[0]["id"], rows[0]["content"]) == (written["id"], "The bicycle is in the shed")
    assert 0 < rows[0]["confidence"] <= 100
    assert status == 0
    assert "The bicycle is in the shed" in table


def test_a_recall_is_explained_without_a_server(shell: Shell) -> None:
    shell("write", "The bicycle is in the shed")
    row = shell.json("recall", "where is the bicycle", "--explain")[0]
    status, table, _ = shell("recall", "where is the bicycle", "--explain")

    plain = shell.json("recall", "where is the bicycle")[0]
    assert row == plain | {"trace": row["trace"]}
    assert [arm["arm"] for arm in row["trace"]["arms"]] == ["lexical", "dense"]
    assert sum(part["value"] for part in row["trace"]["parts"]) == pytest.approx(row["trace"]["score"])
    assert status == 0
    assert "The bicycle is in the shed" in table
    assert f"1. score {row['trace']['score']:.3f}" in table
    assert re.search(r"^ +bicycle +\d\.\d\d +bicycle +\d\.\d\d ", table, re.MULTILINE)
    assert shell("recall", "anything at all", "--explain")[1:] == ("nothing found\n", "")


def test_time_words_are_read_against_the_day_that_is_given(shell: Shell) -> None:
    shell("write", "The bicycle is in the shed")
    written_on = datetime.fromisoformat(shell.json("recall", "bicycle")[0]["created_at"])

    def of_the_day(at: datetime) -> float:
        rows = shell.json("recall", "bicycle yesterday", "--explain", "--at", at.date().isoformat())
        return float({part["part"]: part["value"] for part in rows[0]["trace"]["parts"]}.get("said_then", 0.0))

    on_the_next_day = of_the_day(written_on + timedelta(days=1))
    assert of_the_day(written_on - timedelta(days=30)) < on_the_next_day / 2


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("yesterday", "at: not an ISO 8601 time, such as 2030-01-31T12:00:00Z"),
        ("0001-01-01T00:00:00+12:00", "must lie in the years"),
    ],
)
def test_a_day_that_is_none_is_refused(shell: Shell, at: str, told: str) -> None:
    status, _, err = shell("recall", "bicycle", "--at", at)

    assert status == 2
    assert told in err


def test_what_would_move_the_cursor_is_not_printed(shell: Shell) -> None:
    shell("write", "The bicycle\n\x1b[2Jis in the shed")
    table = shell("recall", "where is the bicycle")[1]

    assert "The bicycle  [2Jis in the shed" in table
    assert "\x1b" not in table


def test_the_first_write_into_a_new_directory_makes_its_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shell = Shell(capsys, tmp_path / "fresh")

    assert shell("write", "hello")[0] == 0
    assert (tmp_path / "fresh" / "key").stat().st_mode & 0o777 == 0o600
    assert [row["name"] for row in shell.json("keys", "list")] == ["first key"]


def test_without_a_key_nothing_is_written(shell: Shell, data_dir: Path) -> None:
    (data_dir / "key").unlink()

    status, _, err = shell("write", "hello")

    assert status == 1
    assert "no key: set POLYMEM_KEY" in err


def test_an_empty_text_is_refused(shell: Shell) -> None:
    status, _, err = shell("write", " ")

    assert status == 2
    assert "must not be empty" in err


def test_nothing_found_is_said_so(shell: Shell) -> None:
    assert shell("recall", "anything at all")[1] == "nothing found\n"
