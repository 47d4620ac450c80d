"""What stands around the atoms: health, keys, errors, limits."""

import logging
import uuid
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from polymem.domain.model import Plan, Scope
from polymem.errors import ErrorCode, InferenceUnavailable, PolymemError, StorageDamaged, StorageFull
from polymem.http.dialects.mnemoverse.errors import ERRORS
from polymem.http.kit import EdgeCode

Client = Any
BASE = "/api/v1"
JSON = {"Content-Type": "application/json"}


def body(code: str, message: str, details: object = None, *, retryable: bool = False) -> dict[str, object]:
    return {"code": code, "message": message, "retryable": retryable, "details": details}


def invalid(message: str, *errors: tuple[list[object], str]) -> dict[str, object]:
    return body("VALIDATION_ERROR", message, {"errors": [{"loc": loc, "msg": reason} for loc, reason in errors]})


# --- health ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.health")
@pytest.mark.parametrize("headers", [{}, {"X-Api-Key": "nonsense"}])
async def test_the_process_answers_anybody(anyone: Client, headers: dict[str, str]) -> None:
    answer = await anyone.get(f"{BASE}/health", headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "database": False, "version": "9.9.9"})


@pytest.mark.requirement("mnemoverse.ready")
@pytest.mark.parametrize("headers", [{}, {"X-Api-Key": "nonsense"}])
async def test_all_parts_that_work_make_it_ready(anyone: Client, headers: dict[str, str]) -> None:
    answer = await anyone.get(f"{BASE}/health/ready", headers=headers)
    checks = {"database": True, "engine": True, "embedding": True}
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "checks": checks, "version": "9.9.9"})


@pytest.mark.requirement("mnemoverse.ready.broken")
async def test_a_part_that_does_not_work_is_named_with_200(
    anyone: Client, house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(house.engine, "embedder", SimpleNamespace(problem="no model"))
        no_model = await anyone.get(f"{BASE}/health/ready")
    with monkeypatch.context() as patched:
        patched.setattr(type(house.engine.storage), "ping", AsyncMock(side_effect=StorageFull("no room")))
        patched.setattr(house.engine, "_written_at", None)
        no_storage = await anyone.get(f"{BASE}/health/ready")
    assert [(answer.status_code, answer.json()) for answer in (no_model, no_storage)] == [
        (200, {"ready": False, "checks": {"database": db, "engine": True, "embedding": model}, "version": "9.9.9"})
        for db, model in ((True, False), (False, True))
    ]


@pytest.mark.requirement("mnemoverse.docs")
async def test_the_api_documents_itself(anyone: Client) -> None:
    document = (await anyone.get(f"{BASE}/openapi.json")).json()
    page = await anyone.get(f"{BASE}/docs")
    assert (document["info"]["title"], document["info"]["version"]) == ("polymem: mnemoverse API", "9.9.9")
    open_paths = {path for path, each in document["paths"].items() if "security" not in next(iter(each.values()))}
    assert open_paths == {f"{BASE}/health", f"{BASE}/health/ready"}
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


# --- keys ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.key.header", "mnemoverse.key.bearer")
async def test_either_header_opens_the_same_memory(anyone: Client, key: str) -> None:
    by_header, by_token = {"X-Api-Key": key}, {"Authorization": f"Bearer {key}"}
    written = await anyone.post(f"{BASE}/memory/write", json={"content": "kept by header"}, headers=by_header)
    made = written.json()["atom_id"]
    found = await anyone.get(f"{BASE}/memory/atoms/{made}", headers=by_token)
    assert (found.status_code, found.json()["content"]) == (200, "kept by header")


@pytest.mark.requirement("mnemoverse.key.missing")
async def test_a_missing_key_is_unauthorized(anyone: Client, told: Any) -> None:
    answer = await anyone.get(f"{BASE}/memory/stats")
    message = "Missing API key. Send X-Api-Key header."
    assert told(answer) == (401, body("UNAUTHORIZED", message, {"reason": "missing_key"}))


@pytest.mark.requirement("mnemoverse.key.invalid")
@pytest.mark.parametrize("key", ["mk_live_nobodys_key_at_all", "testkey", "6f9619ff-8b86-4011-b42d-00c04fc964ff"])
async def test_an_unknown_key_is_unauthorized(anyone: Client, told: Any, key: str) -> None:
    answer = await anyone.get(f"{BASE}/memory/stats", headers={"X-Api-Key": key})
    message = "Invalid or missing API key"
    assert told(answer) == (401, body("UNAUTHORIZED", message, {"reason": "invalid_key"}))


@pytest.mark.requirement("mnemoverse.key.scope")
async def test_a_key_without_the_scope_is_forbidden(house: Any, key: str, caller: Any, told: Any) -> None:
    principal = await house.engine.keys.authenticate(key)
    made = await house.engine.keys.create(principal.tenant_id, name="reader", scopes={Scope.READ})
    async with caller.with_key(made.secret) as reader:
        allowed = await reader.post("/memory/read", json={"query": "a"})
        refused = await reader.post("/memory/write", json={"content": "a"})
    assert allowed.status_code == 200
    assert told(refused) == (403, body("FORBIDDEN", "this key lacks the scope write"))


@pytest.mark.requirement("mnemoverse.key.isolation")
async def test_two_keys_never_meet(api: Client, other: Client, write: Any, told: Any) -> None:
    text = "the vault code is 4711"
    made = await write(text, concepts=["vault", "code"], domain="project:x", external_ref="r", fingerprint="f")
    absent = (404, body("NOT_FOUND", "atom not found"))
    nothing = {"items": [], "episodic_hit": False}

    read = (await other.post("/memory/read", json={"query": text, "min_relevance": 0, "fingerprint": "f"})).json()
    assert {name: read[name] for name in nothing} == nothing
    assert (await other.post("/memory/recent", json={})).json() == {"items": [], "next_cursor": None}
    assert (await other.get("/memory/domains")).json() == {"domains": []}
    assert (await other.get("/memory/export")).text == ""
    assert (await other.get("/memory/stats")).json()["hebbian_edges"] == 0
    graph = (await other.post("/memory/graph", json={"seeds": ["vault"], "domain": "project:x"})).json()
    assert (graph["nodes"], graph["edges"]) == ([], [])
    assert told(await other.get(f"/memory/atoms/{made}")) == absent
    assert told(await other.post("/memory/atoms/by-external-ref", json={"external_ref": "r"})) == absent
    assert told(await other.post(f"/memory/atoms/{made}/restore")) == (404, body("NOT_FOUND", "prototype not found"))
    assert told(await other.delete("/memory/domain/project:x")) == (404, body("NOT_FOUND", "domain not found"))
    assert (await other.delete(f"/memory/atoms/{made}")).json() == {"deleted": 0, "atom_id": made}
    taught = (await other.post("/memory/feedback", json={"atom_ids": [made], "outcome": -1})).json()
    assert taught == {"updated_count": 0, "avg_valence": 0.0, "coactivation_edges": 0}
    # The same text and the same reference are news to another tenant.
    again = (await other.post("/memory/write", json={"content": text, "external_ref": "r"})).json()
    assert again["stored"]
    assert again["atom_id"] != made
    kept = (await api.get(f"/memory/atoms/{made}")).json()
    assert (kept["content"], kept["valence"], kept["superseded_by"]) == (text, 0.0, None)


# --- agents ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.agent")
async def test_the_agent_header_names_who_wrote(api: Client, write: Any, house: Any, key: str) -> None:
    principal = await house.engine.keys.authenticate(key)
    named = await write("said by an agent", headers={"X-Mnemo-Agent-Id": "openclaw-mäin".encode()})
    atom = (await api.get(f"/memory/atoms/{named}")).json()
    assert atom["provenance"] == {
        "principal": principal.user_id,
        "agent": "openclaw-mäin",
        "agent_name": None,
        "client_env": "openclaw-mäin",
        "is_external": False,
    }


@pytest.mark.requirement("mnemoverse.agent")
async def test_an_unfit_agent_header_is_refused(api: Client, told: Any) -> None:
    answer = await api.get("/memory/stats", headers={"X-Mnemo-Agent-Id": "x" * 101})
    expected = invalid("X-Mnemo-Agent-Id: too long (max 100)", (["X-Mnemo-Agent-Id"], "too long (max 100)"))
    assert told(answer) == (400, expected)


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.error.route")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1"),
        ("GET", "/api/v1/memory/nothing"),
        ("POST", "/api/v1/api/v1/memory/read"),
        ("GET", "/api/v1/vault/secrets"),
        ("POST", "/api/v1/memory/rooms/join"),
        ("DELETE", "/api/v1/memory/domain"),
        ("DELETE", "/api/v1/memory/domain/"),
    ],
)
async def test_an_unknown_route_is_answered_bare(anyone: Client, method: str, path: str) -> None:
    answer = await anyone.request(method, path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.requirement("mnemoverse.error.method")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/memory/write", "POST"),
        ("POST", "/memory/rooms", "GET"),
        ("PUT", "/memory/atoms/x", "DELETE, GET"),
        ("PATCH", "/health", "GET"),
    ],
)
async def test_an_unknown_method_is_told(api: Client, told: Any, method: str, path: str, allowed: str) -> None:
    answer = await api.request(method, path)
    assert told(answer) == (405, body("METHOD_NOT_ALLOWED", "method not allowed"))
    assert answer.headers["allow"] == allowed


@pytest.mark.requirement("mnemoverse.slash")
async def test_both_spellings_of_a_path_are_served(api: Client) -> None:
    answers = [await api.get(path) for path in ("/memory/stats", "/memory/stats/", "/health/", "/memory/rooms/")]
    assert [answer.status_code for answer in answers] == [200] * 4


@pytest.mark.requirement("mnemoverse.error.json")
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "body is empty"),
        (b"{", "expecting property name enclosed in double quotes at character 1"),
        (b'{"content":"a","content":"b"}', 'duplicate key "content"'),
        (b'{"content":"a","metadata":{"x":NaN}}', "NaN is not JSON"),
        (b'{"content":"a","metadata":{"x":-Infinity}}', "-Infinity is not JSON"),
        (b'{"content":"a","metadata":{"x":1e999}}', "number out of range"),
    ],
)
async def test_a_body_that_is_no_json_is_refused(api: Client, told: Any, sent: bytes, reason: str) -> None:
    answer = await api.post("/memory/write", content=sent, headers=JSON)
    assert told(answer) == (400, invalid("Request body is not valid JSON", (["body"], reason)))


@pytest.mark.requirement("mnemoverse.error.text")
async def test_text_that_cannot_be_kept_is_refused(api: Client, told: Any) -> None:
    nul = await api.post("/memory/write", content=b'{"content":"a\\u0000b"}', headers=JSON)
    surrogate = await api.post(
        "/memory/write-batch", content=b'{"items":[{"content":"a","concepts":["\\ud800"]}]}', headers=JSON
    )
    path = await api.get("/memory/atoms/%00")
    reasons = ("must not contain NUL characters", "must not contain lone surrogates")
    assert [told(nul), told(surrogate), told(path)] == [
        (400, invalid(f"content: {reasons[0]}", (["body", "content"], reasons[0]))),
        (
            400,
            invalid(f"items[0].concepts[0]: {reasons[1]}", (["body", "items", 0, "concepts", 0], reasons[1])),
        ),
        (400, invalid(f"path: {reasons[0]}", (["path"], reasons[0]))),
    ]


@pytest.mark.requirement("mnemoverse.error.media")
async def test_another_media_type_is_refused(api: Client, told: Any) -> None:
    answer = await api.post("/memory/write", data={"content": "a"})
    assert told(answer) == (415, body("VALIDATION_ERROR", "content-type: must be application/json"))


@pytest.mark.requirement("mnemoverse.error.too_large")
async def test_a_body_beyond_its_limit_is_refused(api: Client, told: Any) -> None:
    answer = await api.post("/memory/write", json={"content": "a", "ignored": "x" * (16 * 1024 * 1024)})
    assert told(answer) == (413, body("PAYLOAD_TOO_LARGE", "body: larger than 16777216 bytes"))


@pytest.mark.requirement("mnemoverse.error.internal")
@pytest.mark.parametrize(
    ("failure", "status", "expected", "retry_after"),
    [
        (RuntimeError("secret detail"), 500, body("INTERNAL", "Internal server error"), None),
        (
            StorageDamaged("page 7"),
            500,
            body(
                "INTERNAL",
                "Stored data is damaged, the operator has to look at it",
                {"reason": "storage_damaged"},
            ),
            None,
        ),
        (StorageFull("no room to write"), 503, body("UNAVAILABLE", "no room to write", retryable=True), "60"),
        (InferenceUnavailable("no model"), 503, body("UNAVAILABLE", "no model", retryable=True), "5"),
    ],
)
async def test_failures_of_the_server_are_told_without_detail(
    api: Client,
    house: Any,
    told: Any,
    *,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    status: int,
    expected: object,
    retry_after: str | None,
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(type(house.engine.read), "statistics", AsyncMock(side_effect=failure))
    answer = await api.get("/memory/stats")
    assert told(answer) == (status, expected)
    assert answer.headers.get("retry-after") == retry_after


@pytest.mark.requirement("mnemoverse.error.table")
def test_every_fault_has_the_status_and_the_code_of_the_page() -> None:
    codes: dict[int, str] = {
        400: "VALIDATION_ERROR",
        401: "UNAUTHORIZED",
        403: "FORBIDDEN",
        404: "NOT_FOUND",
        405: "METHOD_NOT_ALLOWED",
        409: "CONFLICT",
        413: "PAYLOAD_TOO_LARGE",
        415: "VALIDATION_ERROR",
        422: "VALIDATION_ERROR",
        429: "RATE_LIMITED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
    }
    shown = {code: rule for code, rule in ERRORS.items() if code is not EdgeCode.ROUTE_NOT_FOUND}
    for code, rule in shown.items():
        fault: Any = SimpleNamespace(
            code=code, message="m", request_id="r", is_retryable=True, error=None, violations=(), field="f"
        )
        body: Any = rule.render(fault)
        assert body["code"] == codes[rule.status], code
    assert shown.keys() == {*ErrorCode, *EdgeCode} - {EdgeCode.ROUTE_NOT_FOUND}


@pytest.mark.requirement("mnemoverse.request_id")
async def test_every_answer_has_a_request_id(anyone: Client) -> None:
    own = await anyone.get(f"{BASE}/memory/stats", headers={"X-Request-Id": "trace-7"})
    made = await anyone.get(f"{BASE}/health")
    assert (own.headers["x-request-id"], own.json()["requestId"]) == ("trace-7", "trace-7")
    assert uuid.UUID(made.headers["x-request-id"]).version == 7


# --- limits ----------------------------------------------------------------------------------------------


async def _put_on_plan(house: Any, key: str, plan: Plan) -> None:
    principal = await house.engine.keys.authenticate(key)
    await house.engine.accounts.put_plan(plan)
    await house.engine.accounts.set_tenant(principal.tenant_id, plan=plan.name)


@pytest.mark.requirement("mnemoverse.rate")
async def test_a_spent_minute_is_told_and_recovers(house: Any, key: str, api: Client, told: Any) -> None:
    await _put_on_plan(house, key, Plan(name="brief", requests_per_minute=60, burst=2, max_memories=None))
    answers = [await api.get("/memory/rooms") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"60"}
    assert all(answer.headers["x-ratelimit-reset"].isdecimal() for answer in answers)
    expected = body("RATE_LIMITED", "rate limit exceeded", {"reason": "rate_limit"}, retryable=True)
    assert told(answers[2]) == (429, expected)
    assert answers[2].headers["retry-after"] == "1"
    house.clock.advance(1)
    assert (await api.get("/memory/rooms")).status_code == 200


@pytest.mark.requirement("mnemoverse.rate.headers")
async def test_every_answer_tells_the_rate(api: Client, anyone: Client) -> None:
    answers = [
        await api.get("/memory/stats"),
        await api.get("/memory/atoms/none"),
        await api.post("/memory/write", json={}),
        await api.get("/nothing"),
        await anyone.get(f"{BASE}/memory/stats"),
        await anyone.get(f"{BASE}/health"),
    ]
    names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"]
    assert [answer.status_code for answer in answers] == [200, 404, 422, 404, 401, 200]
    assert all(answer.headers[name].isdecimal() for answer in answers for name in names)


@pytest.mark.requirement("mnemoverse.rate.day")
async def test_the_queries_of_a_day_are_counted(house: Any, key: str, api: Client, told: Any) -> None:
    plan = Plan(name="curious", requests_per_minute=6000, burst=100, max_memories=None, queries_per_day=3)
    await _put_on_plan(house, key, plan)
    asked = {"query": "a"}
    refused = await api.post("/memory/read", json={"query": ""})
    reversed_window = await api.post("/memory/read", json={**asked, "since": "2026-02-01", "until": "2026-01-01"})
    answers = [
        await api.post("/memory/read", json=asked),
        await api.post("/memory/read-batch", json={"queries": [asked] * 5}),
        await api.post("/memory/query", json=asked),
        await api.post("/memory/read", json=asked),
        await api.post("/memory/read-batch", json={"queries": [asked]}),
        await api.post("/memory/query", json=asked),
    ]
    assert [refused.status_code, reversed_window.status_code] == [422, 400]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429, 429]
    expected = body("RATE_LIMITED", "plan limit reached: 3 queries a day", {"reason": "daily_limit"})
    for answer in answers[3:]:
        assert told(answer) == (429, expected)
        assert 0 < int(answer.headers["retry-after"]) <= 86_400
    others = [await api.post("/memory/recent", json={}), await api.get("/memory/stats")]
    assert [answer.status_code for answer in others] == [200, 200]


@pytest.mark.requirement("mnemoverse.quota")
async def test_a_full_plan_refuses_the_next_atom(house: Any, key: str, api: Client, told: Any) -> None:
    await _put_on_plan(house, key, Plan(name="tiny", requests_per_minute=6000, burst=100, max_memories=1))
    first = await api.post("/memory/write", json={"content": "the one there is room for"})
    second = await api.post("/memory/write", json={"content": "bread is baked on Mondays"})
    batch = await api.post("/memory/write-batch", json={"items": [{"content": "ferries leave from pier nine"}]})
    message = "plan limit reached: 1 memories"
    assert first.status_code == 200
    assert told(second) == (429, body("RATE_LIMITED", message, {"reason": "atom_limit"}))
    assert "retry-after" not in second.headers
    assert batch.json() == {
        "total_count": 1,
        "stored_count": 0,
        "results": [{"index": 0, "stored": False, "atom_id": None, "importance": 0.0, "reason": "", "error": message}],
    }


@pytest.mark.requirement("mnemoverse.idempotency")
async def test_a_repeated_write_is_answered_from_the_first(api: Client, told: Any) -> None:
    once = {"Idempotency-Key": "order-1"}
    first = await api.post("/memory/write", json={"content": "kept once"}, headers=once)
    again = await api.post("/memory/write", json={"content": "kept once"}, headers=once)
    other = await api.post("/memory/write", json={"content": "something else"}, headers=once)
    items = (await api.post("/memory/recent", json={})).json()["items"]
    assert again.json()["atom_id"] == first.json()["atom_id"]
    assert told(other)[0] == 409
    assert other.json()["code"] == "CONFLICT"
    assert [item["content"] for item in items] == ["kept once"]


# --- export that breaks ----------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.export.failure")
async def test_an_export_that_fails_at_once_is_answered_as_any_failure(
    api: Client, house: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(house.engine.read), "export", _pages_then(StorageFull("no room")))
    assert told(await api.get("/memory/export")) == (503, body("UNAVAILABLE", "no room", retryable=True))


def _pages_then(failure: PolymemError, *pages: Any) -> Callable[..., AsyncIterator[Any]]:
    async def export(*_: object) -> AsyncIterator[Any]:
        for page in pages:
            yield page
        raise failure

    return export


@pytest.mark.requirement("mnemoverse.export.failure")
async def test_an_export_that_fails_later_never_ends_cleanly(
    house: Any, app: Any, key: str, *, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await write("kept before the failure")
    principal = await house.engine.keys.authenticate(key)
    store = house.engine.storage.tenant(principal.tenant_id)
    memory = (await store.get_memories([made], frozenset({principal.personal_space_id})))[made]
    monkeypatch.setattr(type(house.engine.read), "export", _pages_then(StorageFull("no room"), ((memory, ()),)))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path = f"{BASE}/memory/export"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"x-api-key", key.encode())],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8765),
    }
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 200
    assert made.encode() in sent[1]["body"]
    assert sent[1]["more_body"]
