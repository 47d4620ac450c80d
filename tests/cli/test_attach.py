"""Commands that find a running server, and what they make of its answers."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polymem.__main__ import main
from polymem.bootstrap import read_server
from polymem.bootstrap.directory import ServerRecord, write_server

SECRET = "pm_the-key-of-these-tests"


@dataclass
class Answers:
    """What the server of a test says, and what it was asked."""

    status: int = 200
    body: bytes = b"{}"
    is_alive: bool = True
    asked: list[tuple[str, str, str | None, bytes]] = field(default_factory=list)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def url(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/livez":
                self._answer(200 if answers.is_alive else 503, b"{}")
            else:
                self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answers.asked.append((self.command, self.path, self.headers["X-API-Key"], body))
            self._answer(answers.status, answers.body)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def data_dir(tmp_path: Path, url: str) -> Path:
    record(tmp_path, url)
    (tmp_path / "key").write_text(SECRET)
    return tmp_path


def record(folder: Path, url: str, *, pid: int | None = None, has_mem9: bool = True, database: str = "") -> None:
    apis = {"mem9": f"{url}/v1alpha2/mem9s"} if has_mem9 else {}
    found = ServerRecord(
        url=url, pid=pid or os.getpid(), version="0", started_at="2026-01-01", apis=apis, database=database
    )
    write_server(folder, found)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_a_text_is_written_through_the_server_with_the_directorys_key(
    capsys: pytest.CaptureFixture[str], data_dir: Path, answers: Answers
) -> None:
    answers.body = b'{"status":"ok","id":"m1"}'

    assert run(capsys, "write", "hello", "--tags", "a,b", "--data-dir", str(data_dir)) == (0, "m1\n", "")
    method, path, key, body = answers.asked[0]
    assert (method, path, key) == ("POST", "/v1alpha2/mem9s/memories", SECRET)
    assert json.loads(body) == {"content": "hello", "tags": ["a", "b"], "sync": True}


def test_what_the_server_recalls_is_printed(
    capsys: pytest.CaptureFixture[str], data_dir: Path, answers: Answers
) -> None:
    row = {"id": "m1", "confidence": 91, "memory_type": "insight", "created_at": "2026-01-01T00:00:00Z", "content": "x"}
    answers.body = json.dumps({"memories": [{**row, "version": 3}]}).encode()

    status, out, _ = run(capsys, "recall", "what & where", "--json", "--limit", "7", "--data-dir", str(data_dir))

    assert (status, json.loads(out)) == (0, [row])
    assert answers.asked[0][1] == "/v1alpha2/mem9s/memories?q=what+%26+where&limit=7"


def test_the_server_is_asked_for_a_trace_and_for_a_day(
    capsys: pytest.CaptureFixture[str], data_dir: Path, answers: Answers
) -> None:
    trace = {
        "score": 0.5,
        "relevance": 0.25,
        "arms": [{"arm": "lexical", "rank": 1, "score": 2.0}],
        "fused": 0.02,
        "coverage": 1.0,
        "bm25": 0.5,
        "words": [],
        "parts": [{"part": "wide", "value": 0.5}],
    }
    row = {"id": "m1", "confidence": 25, "memory_type": "insight", "created_at": "2026-01-01T00:00:00Z", "content": "x"}
    answers.body = json.dumps({"memories": [{**row, "version": 3, "trace": trace}]}).encode()
    asked = ("recall", "who", "--explain", "--at", "2026-02-03T04:05:06+02:00", "--data-dir", str(data_dir))

    status, out, _ = run(capsys, *asked, "--json")
    _, table, _ = run(capsys, *asked)

    assert (status, json.loads(out)) == (0, [{**row, "trace": trace}])
    path = "/v1alpha2/mem9s/memories?q=who&limit=5&reference_at=2026-02-03T02%3A05%3A06Z&trace=true"
    assert [each[1] for each in answers.asked] == [path, path]
    assert "lexical: rank 1 (2.000)" in table


def test_a_server_that_cannot_explain_is_named(
    capsys: pytest.CaptureFixture[str], data_dir: Path, answers: Answers, url: str
) -> None:
    answers.body = b'{"memories":[{"id":"m1","content":"x"}]}'

    status, out, err = run(capsys, "recall", "who", "--explain", "--data-dir", str(data_dir))

    told = f"polymem: the server at {url}/v1alpha2/mem9s is older than this command and does not explain\n"
    assert (status, out, err) == (5, "", told)


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((400, b'{"error":"content: too long (max 50000)"}'), (2, "content: too long (max 50000)")),
        ((401, b'{"error":"invalid API key"}'), (1, "invalid API key")),
        ((403, b'{"error":"tenant is inactive"}'), (1, "tenant is inactive")),
        ((503, b'{"error":"no room to write"}'), (5, "no room to write (status 503)")),
        ((500, b"<html>"), (5, "Internal Server Error (status 500)")),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(
    capsys: pytest.CaptureFixture[str],
    data_dir: Path,
    answers: Answers,
    refusal: tuple[int, bytes],
    told: tuple[int, str],
) -> None:
    answers.status, answers.body = refusal

    status, out, err = run(capsys, "write", "hello", "--data-dir", str(data_dir))

    assert (status, out, err) == (told[0], "", f"polymem: the server refused: {told[1]}\n")


def test_a_server_without_the_mem9_api_cannot_be_written_to(
    capsys: pytest.CaptureFixture[str], data_dir: Path, url: str
) -> None:
    record(data_dir, url, has_mem9=False)

    status, _, err = run(capsys, "write", "hello", "--data-dir", str(data_dir))

    assert status == 5
    assert "does not serve the mem9 API" in err


@pytest.mark.parametrize("is_port_open", [True, False])
def test_a_record_whose_server_does_not_answer_is_not_believed(
    capsys: pytest.CaptureFixture[str], data_dir: Path, answers: Answers, *, is_port_open: bool
) -> None:
    answers.is_alive = False
    if not is_port_open:
        record(data_dir, "http://127.0.0.1:1")

    status, out, _ = run(capsys, "write", "kept without the server", "--data-dir", str(data_dir))
    _, recalled, _ = run(capsys, "recall", "without the server", "--json", "--data-dir", str(data_dir))

    assert status == 0
    assert [row["id"] for row in json.loads(recalled)] == [out.strip()]
    assert answers.asked == []


def test_a_server_on_another_database_is_not_asked(
    capsys: pytest.CaptureFixture[str], data_dir: Path, url: str, answers: Answers
) -> None:
    record(data_dir, url, database="postgresql://db.example/memories")
    status, out, _ = run(capsys, "recall", "anything", "--data-dir", str(data_dir))

    assert (status, out) == (0, "nothing found\n")
    assert answers.asked == []


def test_a_server_on_the_same_postgresql_is_asked(
    capsys: pytest.CaptureFixture[str],
    data_dir: Path,
    url: str,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record(data_dir, url, database="postgresql://db.example/memories")
    monkeypatch.setenv("POLYMEM_DATABASE_URL", "postgresql://polymem:secret@db.example/memories?sslmode=require")
    answers.body = b'{"status":"ok","id":"m1"}'

    assert run(capsys, "write", "hello", "--data-dir", str(data_dir)) == (0, "m1\n", "")


def test_the_doctor_names_a_server_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], data_dir: Path, answers: Answers
) -> None:
    run(capsys, "write", "hello", "--data-dir", str(data_dir.parent / "other"))
    (data_dir.parent / "other" / "server.json").write_bytes((data_dir / "server.json").read_bytes())
    answers.is_alive = False

    status, out, _ = run(capsys, "doctor", "--json", "--data-dir", str(data_dir.parent / "other"))

    found = {each["check"]: each for each in json.loads(out)["findings"]}
    assert status == 1
    assert "does not answer" in found["server"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "null",
        '{"url": "http://x"}',
        '{"url":"u","pid":"many","version":"0","started_at":"","apis":{}}',
        '{"url":"u","pid":1,"version":"0","started_at":"","apis":[]}',
        '{"url":"u","pid":0,"version":"0","started_at":"","apis":{}}',
        '{"url":"u","pid":-1,"version":"0","started_at":"","apis":{}}',
        '{"url":"u","pid":99999999999999999999,"version":"0","started_at":"","apis":{}}',
    ],
)
def test_a_record_that_makes_no_sense_is_no_server(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)

    assert read_server(tmp_path) is None


def test_the_record_of_a_dead_process_is_no_server(tmp_path: Path) -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    record(tmp_path, "http://127.0.0.1:1", pid=child)

    assert read_server(tmp_path) is None
