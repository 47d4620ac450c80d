"""Several processes on one PostgreSQL: what one does the others know, and all of them outlive its absence."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from object_storage import Bucket, object_server
from postgres import PostgresServer, running_postgres
from processes import (
    IdleConnection,
    Server,
    SlowWrite,
    command,
    one_line,
    read_greeting,
    run,
    serving,
    started,
    stop,
    working,
)

WAIT_SECONDS = 60
ANSWER_SECONDS = 4


@dataclass
class Cluster:
    """Two API processes and a worker, each with a data directory of its own, and files in a bucket."""

    first: Server
    second: Server
    variables: Mapping[str, str]

    def command(self, *arguments: str) -> Any:
        """What an operator's command tells, run on a machine where nothing else runs."""
        done = run(*arguments, "--json", variables=self.variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def new_key(self, **plan: int) -> str:
        """The first key of a new tenant, on a plan of its own when one is given."""
        options: list[str] = []
        if plan:
            limits = [f"--{name.replace('_', '-')}={value}" for name, value in plan.items()]
            self.command("plans", "set", "small", *limits)
            options = ["--plan", "small"]
        return str(self.command("tenants", "create", "tenant", *options)["secret"])


def variables_of(url: str, folder: Path, **more: str) -> dict[str, str]:
    return {"POLYMEM_DATABASE_URL": url, "POLYMEM_DATA_DIR": str(folder / "commands"), **more}


@contextmanager
def cluster_on(url: str, folder: Path, **more: str) -> Iterator[Cluster]:
    variables = variables_of(url, folder, **more)
    beside = {**variables, "POLYMEM_WORKER_CONCURRENCY": "0"}
    with (
        serving(folder / "first", variables=beside) as first,
        serving(folder / "second", variables=beside) as second,
        working(folder / "worker", variables=variables),
    ):
        yield Cluster(first, second, variables)


@pytest.fixture(scope="module")
def cluster(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with object_server() as endpoint:
        files = {
            "POLYMEM_BLOB_URL": f"s3://{Bucket(endpoint).make().name}/uploads",
            "POLYMEM_S3_ENDPOINT": endpoint,
            "POLYMEM_S3_REGION": "us-east-1",
            "POLYMEM_S3_ACCESS_KEY_ID": "anyone",
            "POLYMEM_S3_SECRET_ACCESS_KEY": "anything",
        }
        url = postgres_server.new_database(is_empty=True)
        with cluster_on(url, tmp_path_factory.mktemp("cluster"), **files) as running:
            yield running


def eventually(holds: Callable[[], bool], *, seconds: float = WAIT_SECONDS) -> None:
    """It held once before the time had passed."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # another process works meanwhile; bounded above


def readiness(server: Server) -> tuple[int, Any]:
    answer = httpx.get(f"{server.url}/readyz", timeout=30, trust_env=False)
    return answer.status_code, answer.json()


# --- what one process does, the others know ------------------------------------------------------------------


def test_the_first_process_makes_the_key_and_the_others_tell_none(cluster: Cluster) -> None:
    assert cluster.first.key.startswith("pm_")
    assert not (cluster.second.data_dir / "key").exists()
    assert "made earlier" in cluster.second.greeting
    assert "data  postgresql://" in cluster.first.greeting
    assert readiness(cluster.first) == readiness(cluster.second) == (200, {"status": "ok", "degraded": []})


def test_what_is_written_to_one_process_is_recalled_from_the_other(cluster: Cluster) -> None:
    key = cluster.new_key()
    with cluster.first.client(key) as first, cluster.second.client(key) as second:
        written = first.post("/memories", json={"content": "The ferry leaves at seven", "sync": True}).json()
        found = second.get("/memories", params={"q": "when does the ferry leave"}).json()["memories"]
        assert [row["id"] for row in found] == [written["id"]]
        assert second.delete(f"/memories/{written['id']}").status_code == 204
        assert first.get(f"/memories/{written['id']}").status_code == 404


def test_a_key_works_everywhere_at_once_and_a_revoked_one_nowhere_within_a_second(cluster: Cluster) -> None:
    made = cluster.command("keys", "create", "--name", "short")
    with cluster.first.client(made["secret"]) as first, cluster.second.client(made["secret"]) as second:
        assert first.get("/memories").status_code == second.get("/memories").status_code == 200
        cluster.command("keys", "revoke", made["id"])
        eventually(lambda: {each.get("/memories").status_code for each in (first, second)} == {401}, seconds=1)


def test_a_plan_is_kept_to_five_in_a_hundred_over_both_processes(cluster: Cluster) -> None:
    burst, per_minute = 300, 60
    key = cluster.new_key(requests_per_minute=per_minute, burst=burst)
    with cluster.first.client(key) as first, cluster.second.client(key) as second:
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            clients = [first, second] * burst
            answers = list(pool.map(lambda client: client.get("/memories", params={"limit": "1"}), clients))
        seconds = time.monotonic() - began
    admitted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(admitted) + len(refused) == 2 * burst
    assert 0.95 * burst <= len(admitted) <= burst + seconds * per_minute / 60 + 1
    assert {answer.headers["X-RateLimit-Remaining"] for answer in refused} == {"0"}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_an_import_taken_by_one_process_is_done_by_the_worker(cluster: Cluster) -> None:
    rows = [{"content": f"Parcel {number} went to shelf {number % 13}"} for number in range(300)]
    key = cluster.new_key()
    with cluster.first.client(key) as first, cluster.second.client(key) as second:
        upload = {"file": ("parcels.json", json.dumps(rows).encode())}
        task = first.post("/imports", files=upload, data={"file_type": "memory"}).json()
        eventually(lambda: second.get(f"/imports/{task['id']}").json()["status"] == "done")
        assert second.get("/memories", params={"limit": "1"}).json()["total"] == 300


def test_turns_of_one_session_sent_to_both_processes_get_numbers_of_their_own(cluster: Cluster) -> None:
    key = cluster.new_key()
    with cluster.first.client(key) as first, cluster.second.client(key) as second:

        def send(number: int) -> int:
            body = {
                "messages": [{"role": "user", "content": f"{number} {part}"} for part in range(3)],
                "session_id": "s",
                "sync": True,
            }
            return (first if number % 2 else second).post("/memories", json=body).status_code

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(send, range(24))) == {200}
        query = {"session_id": "s", "limit_per_session": "200"}
        found = first.get("/session-messages", params=query).json()["messages"]
    assert sorted(row["seq"] for row in found) == list(range(72))


def test_commands_work_on_the_database_where_no_server_runs(cluster: Cluster) -> None:
    key = cluster.new_key()
    variables = {**cluster.variables, "POLYMEM_KEY": key}
    assert run("write", "The spare key lies under the pot", variables=variables).returncode == 0
    recalled = run("recall", "where is the spare key", "--json", variables=variables)
    assert [row["content"] for row in json.loads(recalled.stdout)] == ["The spare key lies under the pot"]
    doctor = run("doctor", "--json", variables=cluster.variables)
    assert (doctor.returncode, json.loads(doctor.stdout)["ok"]) == (0, True), doctor.stdout
    settings = {row["setting"]: row for row in cluster.command("settings")}
    assert settings["database_url"]["value"].startswith("postgresql://")
    assert "postgres@" not in settings["database_url"]["value"]
    assert run("work", "--check", variables=cluster.variables).returncode == 0
    assert "is that of polymem" in one_line(run("migrate", variables=cluster.variables).stdout)


def test_of_processes_that_start_at_once_on_an_empty_database_one_makes_the_account(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    variables = variables_of(postgres_server.new_database(is_empty=True), tmp_path, POLYMEM_WORKER_CONCURRENCY="0")
    folders = [tmp_path / f"host{number}" for number in range(3)]
    with ExitStack() as stack:
        commands = [command("serve", "--port", "0", "--data-dir", str(folder)) for folder in folders]
        processes = [stack.enter_context(started(arguments, variables)) for arguments in commands]
        greetings = [read_greeting(process.stdout.fileno()) for process in processes if process.stdout is not None]
        (key,) = [(folder / "key").read_text().strip() for folder in folders if (folder / "key").exists()]
        servers = [Server(*parts) for parts in zip(processes, folders, greetings, strict=True)]
        for server in servers:
            with server.client(key) as client:
                assert client.get("/memories").status_code == 200
        tenants = json.loads(run("tenants", "list", "--json", variables=variables).stdout)
    assert [tenant["name"] for tenant in tenants] == ["default"]
    assert sum("made earlier" in greeting for greeting in greetings) == 2


# --- stopping ------------------------------------------------------------------------------------------------


def test_a_stop_answers_what_is_in_flight_and_the_others_go_on(cluster: Cluster, tmp_path: Path) -> None:
    with serving(tmp_path, variables={**cluster.variables, "POLYMEM_KEY": cluster.first.key}) as third:
        (tmp_path / "key").write_text(cluster.first.key)
        with closing(IdleConnection(third)) as idle, closing(SlowWrite(third)) as slow:
            third.process.terminate()
            idle.wait_until_stopping()
            answer = slow.finish()
        assert b"200 OK" in answer.splitlines()[0]
        assert third.process.wait(WAIT_SECONDS) == 0
    assert cluster.first.found("server was stopping") == ["Said while the server was stopping"]
    assert not (tmp_path / "server.json").exists()


def test_a_worker_that_is_stopped_gives_its_import_back_to_another(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    # All three share one data directory, and so its files, as processes of one machine may.
    variables = variables_of(postgres_server.new_database(), tmp_path)
    rows = [{"content": f"Parcel {number} went to shelf {number % 13}"} for number in range(800)]
    with serving(tmp_path, "--worker-concurrency", "0", variables=variables) as server, server.client() as client:
        with working(tmp_path, variables=variables) as worker:
            upload = {"file": ("parcels.json", json.dumps(rows).encode())}
            task = client.post("/imports", files=upload, data={"file_type": "memory"}).json()
            eventually(lambda: client.get(f"/imports/{task['id']}").json()["done"] > 0)
            assert stop(worker) == 0
        with working(tmp_path, variables=variables):
            eventually(lambda: client.get(f"/imports/{task['id']}").json()["status"] == "done")
        assert client.get("/memories", params={"limit": "1"}).json()["total"] == 800
        (job,) = [
            job
            for job in json.loads(run("jobs", "list", "--json", variables=variables).stdout)
            if job["kind"] == "import"
        ]
    assert job["attempts"] == "1/8"


# --- a database that goes away -------------------------------------------------------------------------------


class Load:
    """Writes one after another to a server, and what came of each."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ends = threading.Event()
        self.stored: list[str] = []
        self.refused: list[int] = []
        self.longest_seconds = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._server.client() as client:
            number = 0
            while not self._ends.is_set():
                number += 1
                began = time.monotonic()
                answer = client.post("/memories", json={"content": f"load {number}", "sync": True})
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                if answer.status_code == 200:
                    self.stored.append(answer.json()["id"])
                else:
                    self.refused.append(answer.status_code)

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


def test_servers_outlive_a_database_that_is_restarted_under_load(tmp_path: Path) -> None:
    with running_postgres() as postgres:
        variables = variables_of(postgres.new_database(), tmp_path)
        with (
            serving(tmp_path / "api", variables=variables) as server,
            working(tmp_path / "w", variables=variables) as worker,
        ):
            load = Load(server)
            eventually(lambda: len(load.stored) > 20)
            postgres.stop(at_once=True)
            eventually(lambda: 503 in load.refused)

            began = time.monotonic()
            status, body = readiness(server)
            assert time.monotonic() - began < ANSWER_SECONDS
            assert (status, body["status"]) == (503, "unavailable")
            assert body["reasons"][0].startswith("storage: ")
            assert httpx.get(f"{server.url}/livez", trust_env=False).status_code == 200

            postgres.start()
            before = len(load.stored)
            eventually(lambda: readiness(server)[0] == 200)
            eventually(lambda: len(load.stored) > before + 20)
            load.end()
            with server.client() as client:
                lost = [each for each in load.stored if client.get(f"/memories/{each}").status_code != 200]
            assert lost == []
            assert set(load.refused) == {503}
            assert load.longest_seconds < 20
            assert worker.poll() is None
            assert stop(worker) == 0
            assert server.stop() == 0


def test_a_database_that_may_not_be_written_serves_reads_and_says_so(tmp_path: Path) -> None:
    with running_postgres() as postgres:
        url = postgres.new_database()
        name = url.partition("@/")[2].partition("?")[0]
        with serving(tmp_path, variables=variables_of(url, tmp_path)) as server:
            assert server.write("The kettle is in the cellar").status_code == 200
            switch_to(postgres, name, is_read_only=True)
            eventually(lambda: readiness(server)[0] == 503)
            assert "read-only" in readiness(server)[1]["reasons"][0]
            assert server.found("where is the kettle") == ["The kettle is in the cellar"]
            assert server.write("The kettle is nowhere").status_code == 503
            switch_to(postgres, name, is_read_only=False)
            eventually(lambda: readiness(server)[0] == 200)
            assert server.write("The kettle is in the attic").status_code == 200


def test_a_database_that_hangs_is_told_in_bounded_time(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.new_database()
    with serving(tmp_path, variables=variables_of(url, tmp_path)) as server, psycopg.connect(url) as holder:
        assert readiness(server)[0] == 200
        holder.execute("LOCK TABLE counters, jobs IN ACCESS EXCLUSIVE MODE")
        waits: list[float] = []

        def is_refused() -> bool:
            began = time.monotonic()
            status, _ = readiness(server)
            waits.append(time.monotonic() - began)
            return status == 503

        eventually(is_refused)
        assert max(waits) < ANSWER_SECONDS
        assert httpx.get(f"{server.url}/livez", trust_env=False).status_code == 200
        holder.rollback()
        eventually(lambda: readiness(server)[0] == 200)


def switch_to(postgres: PostgresServer, name: str, *, is_read_only: bool) -> None:
    """New sessions of the database may not write, or may again; those that stand are ended."""
    word = "on" if is_read_only else "off"
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = {word}")
    postgres.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@pytest.mark.parametrize("name", ["serve", "work", "migrate", "doctor"])
def test_a_database_that_is_not_there_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    url = f"postgresql://someone:very-secret@/nowhere?host={tmp_path}"
    done = run(name, variables=variables_of(url, tmp_path))
    assert done.returncode in {2, 4}
    assert "very-secret" not in done.stdout + done.stderr
    assert "database" in (done.stdout if name == "doctor" else one_line(done.stderr))


def test_a_database_without_our_schema_is_refused_by_commands_that_only_look(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    variables = variables_of(postgres_server.new_database(is_empty=True), tmp_path)
    refused = run("tenants", "list", variables=variables)
    assert refused.returncode == 2
    assert "polymem migrate" in one_line(refused.stderr)
    assert run("work", "--check", variables=variables).returncode == 2
    assert run("migrate", variables=variables).returncode == 0
    assert run("tenants", "list", variables=variables).stdout == "no tenants\n"
