"""The server as a process: how it starts, answers, is refused, stops, and survives a bad day."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import (
    STOP_SECONDS,
    IdleConnection,
    Server,
    SlowWrite,
    command,
    environment,
    one_line,
    read_greeting,
    run,
    serving,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data") as running:
        yield running


# --- starting ------------------------------------------------------------------------------------------------


def test_the_first_start_makes_a_key_in_a_private_file_and_the_second_names_the_file(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    with serving(data_dir) as first:
        secret = first.key
        assert secret.startswith("pm_")
        assert (data_dir / "key").stat().st_mode & 0o777 == 0o600
        assert data_dir.stat().st_mode & 0o777 == 0o700
        assert secret not in first.greeting
        assert str(data_dir / "key") in first.greeting
        assert first.write("The first of all").status_code == 200
        assert first.stop() == 0

    with serving(data_dir) as second:
        assert second.key == secret
        assert str(data_dir / "key") in second.greeting
        assert second.found("first of all") == ["The first of all"]


def test_a_new_key_is_shown_to_a_terminal_once(tmp_path: Path) -> None:
    shown = []
    for _ in range(2):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command("serve", "--port", "0", "--data-dir", str(tmp_path)), stdout=theirs, env=environment()
        )
        os.close(theirs)
        try:
            shown.append(read_greeting(ours))
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
            os.close(ours)

    secret = (tmp_path / "key").read_text().strip()
    assert secret in shown[0]
    assert secret not in shown[1]
    assert str(tmp_path / "key") in shown[1]


def test_a_preset_key_opens_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, "--key", "our-own-first-key-1") as server:
        assert server.key == "our-own-first-key-1"
        assert server.write("by the preset key").status_code == 200


def test_a_key_file_that_a_crash_left_without_its_account_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("pm_written-before-the-crash\n")

    with serving(tmp_path) as server:
        assert server.key == "pm_written-before-the-crash"
        assert server.write("after the crash").status_code == 200


def test_the_lines_to_try_work_as_they_are_printed(server: Server) -> None:
    lines = [line.strip() for line in server.greeting.splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 3
    if shutil.which("curl") is None:
        pytest.skip("this machine has no curl")

    answers = [subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout for line in lines]

    assert json.loads(answers[0]) == {"status": "ok"}
    assert json.loads(answers[1])["status"] == "ok"
    assert [row["content"] for row in json.loads(answers[2])["memories"]] == ["The build server is called Marvin"]


def test_server_json_tells_programs_where_the_server_is_until_it_stops(server: Server) -> None:
    record = server.record

    assert set(record) == {"url", "pid", "version", "started_at", "apis", "database"}
    assert record["pid"] == server.process.pid
    assert httpx.get(f"{record['url']}/livez", trust_env=False).status_code == 200
    assert record["apis"] == {"mem9": f"{record['url']}/v1alpha2/mem9s", "mnemoverse": f"{record['url']}/api/v1"}
    assert server.stop() == 0
    assert not (server.data_dir / "server.json").exists()


def test_a_dialect_is_served_under_its_prefix(tmp_path: Path) -> None:
    with serving(tmp_path, "--dialect-prefixes", "mem9=/apis/mem9") as server:
        assert server.api.endswith("/apis/mem9/v1alpha2/mem9s")
        assert server.write("under a prefix").status_code == 200


# --- being refused -------------------------------------------------------------------------------------------


def test_a_second_server_on_the_same_directory_is_refused_and_told_the_process(server: Server) -> None:
    refused = run("serve", "--port", "0", "--data-dir", str(server.data_dir))

    assert refused.returncode == 3
    assert f"process {server.process.pid}" in one_line(refused.stderr)
    assert server.write("still here").status_code == 200
    assert server.record["pid"] == server.process.pid


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        refused = run("serve", "--port", str(port), "--data-dir", str(tmp_path))

    assert refused.returncode == 5
    assert f"port {port} is in use" in one_line(refused.stderr)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_told_in_one_line(tmp_path: Path, host: str) -> None:
    refused = run("serve", "--host", host, "--port", "0", "--data-dir", str(tmp_path))

    assert refused.returncode == 2
    assert host in one_line(refused.stderr)


def test_a_data_directory_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    refused = run("serve", "--port", "0", "--data-dir", str(tmp_path / "file" / "data"))

    assert refused.returncode == 4
    assert str(tmp_path / "file" / "data") in one_line(refused.stderr)


def test_a_damaged_database_is_told_in_one_line_and_left_as_it_is(tmp_path: Path) -> None:
    garbage = b"this was a database once " * 400
    (tmp_path / "polymem.db").write_bytes(garbage)

    refused = run("serve", "--port", "0", "--data-dir", str(tmp_path))
    doctor = run("doctor", "--json", "--data-dir", str(tmp_path))

    assert refused.returncode == 4
    one_line(refused.stderr)
    assert doctor.returncode == 2
    assert [each["check"] for each in json.loads(doctor.stdout)["findings"] if not each["ok"]][-1] == "database"
    assert (tmp_path / "polymem.db").read_bytes() == garbage


def test_a_wrong_setting_is_told_in_one_line(tmp_path: Path) -> None:
    refused = run("serve", "--port", "high", "--data-dir", str(tmp_path))

    assert refused.returncode == 2
    assert "setting port: 'high' from command line (--port) is not allowed" in one_line(refused.stderr)


# --- stopping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_write_in_flight_is_answered_and_stored_before_the_server_stops(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serving(tmp_path) as server, closing(IdleConnection(server)) as idle, closing(SlowWrite(server)) as slow:
        server.process.send_signal(number)
        idle.wait_until_stopping()
        answer = slow.finish()

        assert b"200 OK" in answer.splitlines()[0]
        assert server.process.wait(STOP_SECONDS) == 0

    with serving(tmp_path) as again:
        assert again.found("server was stopping") == ["Said while the server was stopping"]


def test_a_stop_waits_no_longer_than_its_grace(tmp_path: Path) -> None:
    with serving(tmp_path, "--shutdown-grace-seconds", "1") as server:
        with closing(SlowWrite(server)):
            began = time.monotonic()
            assert server.stop() == 0
        assert time.monotonic() - began < 10


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "--shutdown-grace-seconds", "3600") as server:
        with closing(IdleConnection(server)) as idle, closing(SlowWrite(server)):
            server.process.send_signal(signal.SIGTERM)
            idle.wait_until_stopping()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(STOP_SECONDS) == 128 + signal.SIGTERM
        assert not (tmp_path / "server.json").exists()


def test_an_import_in_hand_is_given_back_by_a_stop_and_finished_by_the_next_start(tmp_path: Path) -> None:
    rows = [{"content": f"Parcel {number} went to shelf {number % 13}"} for number in range(1500)]
    with serving(tmp_path, "--shutdown-grace-seconds", "0") as server:
        with server.client() as client:
            upload = {"file": ("parcels.json", json.dumps(rows).encode())}
            task = client.post("/imports", files=upload, data={"file_type": "memory"}).json()
            while client.get(f"/imports/{task['id']}").json()["done"] == 0:
                pass
        assert server.stop() == 0

    with serving(tmp_path) as again:
        with again.client() as client:
            deadline = time.monotonic() + 60
            while (state := client.get(f"/imports/{task['id']}").json())["status"] in {"pending", "processing"}:
                assert time.monotonic() < deadline, state
            total = client.get("/memories", params={"limit": "1"}).json()["total"]
        listed = json.loads(run("jobs", "list", "--json", "--data-dir", str(tmp_path)).stdout)

    assert (state["status"], total) == ("done", 1500)
    assert [job["attempts"] for job in listed if job["kind"] == "import"] == ["1/8"]


def test_a_killed_server_leaves_a_record_that_nobody_believes(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.write("The kettle is in the cellar").status_code == 200
        server.stop(signal.SIGKILL)

    assert (tmp_path / "server.json").exists()
    recalled = run("recall", "where is the kettle", "--json", "--data-dir", str(tmp_path))
    assert [row["content"] for row in json.loads(recalled.stdout)] == ["The kettle is in the cellar"]


# --- commands beside a running server ------------------------------------------------------------------------


def test_a_key_made_while_the_server_runs_works_at_once_and_a_revoked_one_no_more(server: Server) -> None:
    where = ("--data-dir", str(server.data_dir), "--json")
    made = json.loads(run("keys", "create", "--name", "second", "--scopes", "read,write", *where).stdout)
    with server.client(made["secret"]) as client:
        assert client.post("/memories", json={"content": "by the second key", "sync": True}).status_code == 200

        revoked = json.loads(run("keys", "revoke", made["id"], *where).stdout)

        assert revoked["revoked_at"] is not None
        assert client.get("/memories").status_code == 401
    assert server.found("second key") == ["by the second key"]


def test_a_tenant_switched_off_is_refused_until_it_is_switched_on(server: Server) -> None:
    where = ("--data-dir", str(server.data_dir), "--json")
    made = json.loads(run("tenants", "create", "guests", *where).stdout)
    with server.client(made["secret"]) as client:
        assert client.get("/memories").status_code == 200
        run("tenants", "set", made["tenant"], "--inactive", *where)
        assert client.get("/memories").status_code == 403
        run("tenants", "set", made["tenant"], "--active", *where)
        assert client.get("/memories").status_code == 200


def test_write_and_recall_go_through_the_running_server(server: Server) -> None:
    where = ("--data-dir", str(server.data_dir))
    written = run("write", "The spare key hangs behind the stove", "--tags", "home", *where)
    recalled = run("recall", "where is the spare key", "--json", *where)

    assert written.returncode == 0, written.stderr
    rows = json.loads(recalled.stdout)
    assert [(row["id"], row["content"]) for row in rows] == [
        (written.stdout.strip(), "The spare key hangs behind the stove")
    ]
    assert 0 < rows[0]["confidence"] <= 100


def test_an_explanation_is_the_same_through_the_server_and_without_it(tmp_path: Path) -> None:
    asked = ("recall", "where was the kettle last week", "--explain", "--json", "--data-dir", str(tmp_path))
    with serving(tmp_path) as server:
        for content in ("The kettle stood in the cellar", "The kettle boils in three minutes"):
            assert server.write(content).status_code == 200
        through = run(*asked, "--at", "2030-01-01")

    alone = run(*asked, "--at", "2030-01-01")

    assert (through.returncode, alone.returncode) == (0, 0), through.stderr + alone.stderr
    rows = json.loads(through.stdout)
    assert rows[0]["content"] == "The kettle stood in the cellar"
    assert _rounded(json.loads(alone.stdout)) == _rounded(rows)


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, times to the second and figures to six digits."""

    def hook(text: str) -> float:
        return round(float(text), 6)

    listed: list[dict[str, Any]] = json.loads(json.dumps(rows), parse_float=hook)
    return [{**row, "created_at": row["created_at"][:19]} for row in listed]


def test_the_doctor_finds_a_running_server_well(server: Server) -> None:
    server.write("something to look at")

    doctor = run("doctor", "--json", "--data-dir", str(server.data_dir))

    report = json.loads(doctor.stdout)
    assert [each for each in report["findings"] if not each["ok"]] == []
    assert doctor.returncode == 0
    assert server.url in next(each["message"] for each in report["findings"] if each["check"] == "server")


# --- bad days ------------------------------------------------------------------------------------------------


def damaged_model(folder: Path) -> Path:
    """A copy of the model that comes with polymem, with one byte of its weights changed."""
    import polymem.inference.minilm as package  # noqa: PLC0415 - found here, not used

    source = Path(str(package.__file__)).parent / "model"
    shutil.copytree(source, folder)
    weights = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)
    return folder


def test_with_a_damaged_model_the_server_finds_by_words_and_says_so(tmp_path: Path) -> None:
    model = damaged_model(tmp_path / "model")
    with serving(tmp_path / "data", "--model-dir", str(model)) as server:
        ready = httpx.get(f"{server.url}/readyz", trust_env=False)

        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"
        assert "model" in " ".join(ready.json()["degraded"])
        assert "degraded" in server.greeting
        assert server.write("The lighthouse keeper collects barometers").status_code == 200
        assert server.found("barometers") == ["The lighthouse keeper collects barometers"]
        (tmp_path / "data" / "polymem.toml").write_text(f"model_dir = '{model}'\n")
        doctor = run("doctor", "--json", "--data-dir", str(tmp_path / "data"))
        assert "model" in [each["check"] for each in json.loads(doctor.stdout)["findings"] if not each["ok"]]
        assert doctor.returncode == 1
        assert server.stop() == 0


def test_a_memory_written_without_the_model_is_embedded_once_the_model_is_back(tmp_path: Path) -> None:
    model = damaged_model(tmp_path / "model")
    with serving(tmp_path / "data", "--model-dir", str(model)) as server:
        server.write("The lighthouse keeper collects barometers")
        server.stop()

    with serving(tmp_path / "data") as again:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            report = json.loads(run("doctor", "--json", "--data-dir", str(again.data_dir)).stdout)
            backlog = next(each["message"] for each in report["findings"] if each["check"] == "backlog")
            if backlog.startswith("0 queued, 0 running"):
                break
        assert report["ok"], report
        found = again.found("instruments that measure air pressure", min_confidence="0")
        assert found == ["The lighthouse keeper collects barometers"]


def test_when_the_disk_is_full_writes_are_refused_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    written = []
    with serving(tmp_path) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
        for number in range(400):
            content = f"ledger{number:04d} " + "entry " * 600
            answer = server.write(content)
            if answer.status_code != 200:
                break
            written.append(f"ledger{number:04d}")
        assert answer.status_code == 503, "the disk never filled"
        assert set(answer.json()) == {"error"}
        assert server.found(written[0])[0].startswith(written[0])
        server.stop()

    with serving(tmp_path) as again:
        with again.client() as client:
            page = client.get("/memories", params={"limit": "1000"}).json()
        assert {row["content"].split()[0] for row in page["memories"]} >= set(written)
        assert again.write("there is room again").status_code == 200


# --- the page ------------------------------------------------------------------------------------------------

PAGE_COMMANDS = {
    "provision": "curl -sX POST $HOST/v1alpha1/mem9s",
    "create": """curl -sX POST "$API/memories" \\
  -H "Content-Type: application/json" \\
  -H "X-API-Key: $API_KEY" \\
  -H "X-Mnemo-Agent-Id: openclaw-main" \\
  -d '{"content":"Project uses PostgreSQL 15","tags":["tech","database"],"metadata":{"source":"setup-note"}}'""",
    "search": 'curl -s -H "X-API-Key: $API_KEY" "$API/memories?q=postgres&limit=5"',
    "filter": 'curl -s -H "X-API-Key: $API_KEY" "$API/memories?tags=tech&source=openclaw-main&limit=10"',
    "get": 'curl -s -H "X-API-Key: $API_KEY" "$API/memories/$ID"',
    "update": """curl -sX PUT "$API/memories/$ID" \\
  -H "Content-Type: application/json" \\
  -H "X-API-Key: $API_KEY" \\
  -H "If-Match: $VERSION" \\
  -d '{"content":"Project uses PostgreSQL 16","tags":["tech","database"]}'""",
    "delete": 'curl -sX DELETE -H "X-API-Key: $API_KEY" "$API/memories/$ID"',
    "import memory": """curl -sX POST "$API/imports" \\
  -H "X-API-Key: $API_KEY" \\
  -F "file=@memory.json" \\
  -F "file_type=memory" \\
  -F "agent_id=openclaw-main\"""",
    "import session": """curl -sX POST "$API/imports" \\
  -H "X-API-Key: $API_KEY" \\
  -F "file=@session.json" \\
  -F "file_type=session" \\
  -F "session_id=ses-001" \\
  -F "agent_id=openclaw-main\"""",
    "imports": 'curl -s -H "X-API-Key: $API_KEY" "$API/imports"',
    "import": 'curl -s -H "X-API-Key: $API_KEY" "$API/imports/$ID"',
    "session messages": (
        'curl -s -H "X-API-Key: $API_KEY" '
        '"$API/session-messages?session_id=ses-001&session_id=ses-002&limit_per_session=20"'
    ),
    "health": "curl -s $HOST/healthz",
}


class Shell:
    """Runs the page's commands as a reader would, with the page's variables set."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._folder = folder
        self._variables = {"HOST": server.url, "API": server.api}

    def set(self, **variables: str) -> None:
        self._variables.update(variables)

    def __call__(self, name: str) -> tuple[int, Any]:
        """The status and the body, None when it is empty."""
        line = PAGE_COMMANDS[name] + " -w '\\n%{http_code}'"
        finished = subprocess.run(
            ["sh", "-c", line],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=self._folder,
            env=environment(**self._variables),
        )
        body, _, status = finished.stdout.rpartition("\n")
        return int(status), json.loads(body) if body else None


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_the_pages_commands_work_as_they_stand(server: Server, tmp_path: Path) -> None:
    shell = Shell(server, tmp_path)
    (tmp_path / "memory.json").write_text(json.dumps([{"content": "Deploys happen on Tuesdays"}]))
    (tmp_path / "session.json").write_text(
        json.dumps({"messages": [{"role": "user", "content": "Which day do we deploy?"}]})
    )
    status, provisioned = shell("provision")
    assert (status, set(provisioned)) == (201, {"id"})
    shell.set(API_KEY=provisioned["id"])

    status, created = shell("create")
    assert (status, created["status"]) == (202, "accepted")
    memory = check_the_created_memory(shell, created["id"])
    check_update_and_delete(shell, memory)
    check_imports(shell)
    assert shell("health") == (200, {"status": "ok"})


def check_the_created_memory(shell: Shell, memory_id: str) -> dict[str, Any]:
    shell.set(ID=memory_id)
    status, memory = shell("get")
    assert status == 200
    times = {"created_at": memory["created_at"], "updated_at": memory["updated_at"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", times["created_at"])
    assert memory == {
        "id": memory_id,
        "content": "Project uses PostgreSQL 15",
        "memory_type": "insight",
        "source": "openclaw-main",
        "agent_id": "openclaw-main",
        "tags": ["tech", "database"],
        "metadata": {"source": "setup-note"},
        "state": "active",
        "version": 1,
        **times,
    }
    for name, limit in (("search", 5), ("filter", 10)):
        status, page = shell(name)
        assert (status, page["total"], page["limit"], page["offset"]) == (200, 1, limit, 0)
        row = page["memories"][0]
        assert {name: row[name] for name in memory} == memory
        assert isinstance(row["relative_age"], str)
        assert ("confidence" in row) == (name == "search")
    return dict(memory)


def check_update_and_delete(shell: Shell, memory: dict[str, Any]) -> None:
    shell.set(VERSION=str(memory["version"]))
    status, updated = shell("update")
    assert status == 200
    assert updated["content"] == "Project uses PostgreSQL 16"
    assert updated["version"] == memory["version"] + 1
    assert updated["metadata"] == memory["metadata"]
    assert shell("update")[0] == 409

    assert shell("delete") == (204, None)
    assert shell("delete") == (204, None)
    assert shell("get")[0] == 404


def check_imports(shell: Shell) -> None:
    accepted = [shell(name) for name in ("import memory", "import session")]
    assert [(status, set(body), body["status"]) for status, body in accepted] == [
        (202, {"id", "status"}, "pending"),
        (202, {"id", "status"}, "pending"),
    ]
    deadline = time.monotonic() + 30
    status, listed = shell("imports")
    while listed["status"] != "done" and time.monotonic() < deadline:
        status, listed = shell("imports")
    assert (status, listed["status"]) == (200, "done")
    tasks = {task["file"]: task for task in listed["tasks"]}
    assert set(tasks) == {"memory.json", "session.json"}
    shell.set(ID=tasks["session.json"]["id"])
    assert shell("import") == (200, tasks["session.json"])

    status, messages = shell("session messages")
    assert (status, messages["limit_per_session"]) == (200, 20)
    assert [(row["session_id"], row["role"], row["content"]) for row in messages["messages"]] == [
        ("ses-001", "user", "Which day do we deploy?")
    ]
