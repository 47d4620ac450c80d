"""What stands around the memories: health, keys, errors, limits."""

import logging
import math
import uuid
from typing import Any
from unittest.mock import AsyncMock

import pytest

from polymem.domain.model import Plan, Scope
from polymem.errors import StorageDamaged, StorageFull

Client = Any
ALPHA1 = "/v1alpha1/mem9s"
ALPHA2 = "/v1alpha2/mem9s"


# --- health ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.healthz")
async def test_health_is_told_to_anybody(anyone: Client) -> None:
    for headers in ({}, {"X-API-Key": "nonsense"}):
        answer = await anyone.get("/healthz", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.requirement("mem9.versionz")
async def test_the_version_is_told_to_anybody(anyone: Client) -> None:
    answer = (await anyone.get("/versionz")).json()
    assert answer.pop("go_version").startswith("python3.")
    assert answer == {"started_at": "2026-03-01T12:00:00Z", "version": "9.9.9"}


@pytest.mark.requirement("mem9.metrics")
async def test_metrics_count_what_was_written_and_recalled(api: Client, anyone: Client) -> None:
    await api.post("/memories", json={"content": "counted"})
    await api.get("/memories?q=counted")
    lines = (await anyone.get("/metrics")).text.splitlines()
    counted = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert counted['polymem_memories_written_total{dialect="mem9"}'] >= 1
    assert counted['polymem_recall_seconds_count{dialect="mem9"}'] >= 1
    route = 'polymem_http_requests_total{dialect="mem9",method="POST",route="/v1alpha2/mem9s/memories",status="202"}'
    assert counted[route] >= 1


@pytest.mark.requirement("mem9.docs")
async def test_the_api_documents_itself(anyone: Client) -> None:
    document = (await anyone.get("/v1alpha2/openapi.json")).json()
    page = await anyone.get("/v1alpha2/docs")
    assert document["info"] == {
        "title": "polymem: mem9 API",
        "version": "9.9.9",
        "description": document["info"]["description"],
    }
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


# --- provisioning ----------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.provision", "mem9.key.header")
async def test_a_provisioned_key_opens_an_empty_memory(anyone: Client) -> None:
    answer = await anyone.post(ALPHA1)
    key = answer.json()["id"]
    assert (answer.status_code, answer.json()) == (201, {"id": str(uuid.UUID(key))})
    page = await anyone.get(f"{ALPHA2}/memories", headers={"X-API-Key": key})
    assert page.json() == {"memories": [], "total": 0, "limit": 10, "offset": 0}


@pytest.mark.requirement("mem9.provision.parameters")
async def test_provisioning_ignores_parameters_and_body(anyone: Client) -> None:
    answer = await anyone.post(f"{ALPHA1}?utm_source=a&utm_medium=b&x=y", content=b"{not json", headers={"X-Y": "z"})
    assert answer.status_code == 201


@pytest.mark.requirement("mem9.provision.closed")
async def test_closed_provisioning_is_refused(caller: Any) -> None:
    for settings in ({"provisioning": "closed"}, {"is_loopback": False}):
        async with caller.on(**settings) as client:
            answer = await client.post("http://127.0.0.1:8765/v1alpha1/mem9s")
        assert (answer.status_code, answer.json()) == (403, {"error": "provisioning is closed"})


@pytest.mark.requirement("mem9.provision.loopback")
@pytest.mark.parametrize(
    ("address", "headers", "error"),
    [
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, "provisioning is closed to forwarded requests"),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}, "provisioning is closed to forwarded requests"),
        ("127.0.0.1", {"Via": "1.1 proxy"}, "provisioning is closed to forwarded requests"),
        ("192.0.2.1", {}, "provisioning is open on this machine only"),
        ("127.0.0.1", {"Host": "evil.example.org"}, "provisioning is open on this machine only"),
        ("127.0.0.1", {"Origin": "https://evil.example.org"}, "provisioning is open on this machine only"),
    ],
)
async def test_provisioning_is_for_callers_on_this_machine(
    house: Any, app: Any, address: str, headers: dict[str, str], error: str
) -> None:
    async with house.client(app, headers, address=address) as client:
        answer = await client.post(ALPHA1)
    assert (answer.status_code, answer.json()) == (403, {"error": error})


@pytest.mark.requirement("mem9.provision.loopback")
async def test_provisioning_opened_by_its_setting_is_counted_by_address(house: Any) -> None:
    app = house.app(is_loopback=False, provisioning="open")
    async with house.client(app, address="192.0.2.77") as client:
        answers = [(await client.post(ALPHA1)).status_code for _ in range(61)]
    assert answers == [201] * 60 + [429]


@pytest.mark.requirement("mem9.status")
async def test_a_keys_status_is_told(anyone: Client, key: str, house: Any) -> None:
    async def status(headers: dict[str, str]) -> tuple[int, object]:
        answer = await anyone.get("/v1alpha2/status", headers=headers)
        return answer.status_code, answer.json()

    assert await status({}) == (401, {"error": "missing API key"})
    assert await status({"X-API-Key": str(uuid.uuid4())}) == (404, {"error": "key not found"})
    assert await status({"X-API-Key": key}) == (200, {"status": "active"})
    principal = await house.engine.keys.authenticate(key)
    await house.engine.accounts.set_tenant(principal.tenant_id, is_active=False)
    assert await status({"X-API-Key": key}) == (200, {"status": "inactive"})


# --- keys ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.key.missing")
async def test_a_missing_or_unknown_key_is_unauthorized(anyone: Client) -> None:
    missing = await anyone.get(f"{ALPHA2}/memories")
    unknown = await anyone.get(f"{ALPHA2}/memories", headers={"X-API-Key": str(uuid.uuid4())})
    assert (missing.status_code, missing.json()) == (401, {"error": "missing API key"})
    assert (unknown.status_code, unknown.json()) == (401, {"error": "invalid API key"})


@pytest.mark.requirement("mem9.key.bearer")
async def test_a_bearer_token_is_a_key(anyone: Client, key: str) -> None:
    answer = await anyone.get(f"{ALPHA2}/memories", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200


@pytest.mark.requirement("mem9.key.path", "mem9.slash")
async def test_the_key_in_the_path_opens_the_same_memory(anyone: Client, key: str, api: Client) -> None:
    made = (await anyone.post(f"{ALPHA1}/{key}/memories/", json={"content": "by path", "sync": True})).json()["id"]
    seen = [
        await anyone.get(f"{ALPHA1}/{key}/memories/{made}"),
        await anyone.put(f"{ALPHA1}/{key}/memories/{made}", json={"tags": ["a"]}),
        await anyone.get(f"{ALPHA1}/{key}/memories/"),
        await anyone.get(f"{ALPHA1}/{key}/imports"),
        await anyone.get(f"{ALPHA1}/{key}/session-messages?session_id=a"),
        await api.get(f"/memories/{made}"),
        await anyone.delete(f"{ALPHA1}/{key}/memories/{made}/"),
        await anyone.post(f"{ALPHA1}/{key}/memories/batch-delete", json={"ids": [made]}),
    ]
    assert [answer.status_code for answer in seen] == [200, 200, 200, 200, 200, 200, 204, 405]


@pytest.mark.requirement("mem9.key.path.unknown")
async def test_a_path_without_a_tenant_is_not_found(anyone: Client, key: str, house: Any) -> None:
    unknown = await anyone.get(f"{ALPHA1}/{uuid.uuid4()}/memories")
    principal = await house.engine.keys.authenticate(key)
    await house.engine.accounts.set_tenant(principal.tenant_id, is_active=False)
    inactive = await anyone.get(f"{ALPHA1}/{key}/memories")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "tenant not found"})
    assert (inactive.status_code, inactive.json()) == (403, {"error": "tenant is inactive"})


@pytest.mark.requirement("mem9.key.isolation")
async def test_two_keys_never_meet(api: Client, other: Client, remember: Any, run_jobs: Any) -> None:
    made = await remember("the vault code is 4711", tags=["t"], session_id="s")
    await api.post("/memories", json={"messages": [{"role": "user", "content": "the vault again"}], "session_id": "s"})
    form = {
        "files": {"file": ("a.json", b'{"memories":[{"content":"vault import"}]}')},
        "data": {"file_type": "memory"},
    }
    task = (await api.post("/imports", **form)).json()["id"]
    await run_jobs()
    seen = [
        await other.get("/memories?q=vault&min_confidence=0"),
        await other.get("/memories?state=all&memory_type=insight,pinned,session"),
        await other.get(f"/memories/{made}"),
        await other.put(f"/memories/{made}", json={"content": "changed"}),
        await other.delete(f"/memories/{made}"),
        await other.post("/memories/batch-delete", json={"ids": [made]}),
        await other.get("/imports"),
        await other.get(f"/imports/{task}"),
        await other.get("/session-messages?session_id=s"),
    ]
    assert [(answer.status_code, answer.json()) for answer in seen] == [
        (200, {"memories": [], "total": 0, "limit": 10, "offset": 0}),
        (200, {"memories": [], "total": 0, "limit": 10, "offset": 0}),
        (404, {"error": "not found"}),
        (404, {"error": "not found"}),
        (404, {"error": "not found"}),
        (200, {"deleted": 0}),
        (200, {"status": "empty", "tasks": []}),
        (404, {"error": "not found"}),
        (200, {"messages": [], "limit_per_session": 500}),
    ]
    assert (await api.get(f"/memories/{made}")).json()["content"] == "the vault code is 4711"


# --- agents ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.agent.header")
async def test_the_agent_header_attributes_what_is_written(api: Client, remember: Any) -> None:
    agent = {"X-Mnemo-Agent-Id": "openclaw-mäin".encode()}
    default = (await api.get(f"/memories/{await remember('a', headers=agent)}")).json()
    named = (await api.get(f"/memories/{await remember('b', headers=agent, agent_id='ada')}")).json()
    assert (default["source"], default["agent_id"]) == ("openclaw-mäin", "openclaw-mäin")
    assert (named["source"], named["agent_id"]) == ("openclaw-mäin", "ada")


@pytest.mark.requirement("mem9.agent.header.invalid")
@pytest.mark.parametrize(
    ("agent", "error"),
    [
        ("x" * 101, "X-Mnemo-Agent-Id: too long (max 100)"),
        (b"\xff", "X-Mnemo-Agent-Id: must be UTF-8"),
        ("a\u0085b".encode(), "X-Mnemo-Agent-Id: must not contain control characters"),
    ],
)
async def test_an_unfit_agent_header_is_refused(api: Client, agent: Any, error: str) -> None:
    answer = await api.get("/memories", headers={"X-Mnemo-Agent-Id": agent})
    assert (answer.status_code, answer.json()) == (400, {"error": error})


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mem9.error.shape", "mem9.space_chains")
@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v1alpha2", 404, "not found"),
        ("GET", "/v1alpha2/mem9s/nothing", 404, "not found"),
        ("POST", "/v1alpha2/space-chains", 404, "not found"),
        ("GET", "/v1alpha2/space-chains/nodes", 404, "not found"),
        ("POST", "/v1alpha2/mem9s/memories/bulk", 405, "method not allowed"),
        ("PATCH", "/v1alpha2/mem9s/memories", 405, "method not allowed"),
        ("DELETE", "/healthz", 405, "method not allowed"),
        ("GET", "/v1alpha1/mem9s", 405, "method not allowed"),
    ],
)
async def test_unknown_routes_and_methods_have_the_same_shape(
    anyone: Client, method: str, path: str, status: int, error: str
) -> None:
    answer = await anyone.request(method, path)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


@pytest.mark.requirement("mem9.error.json")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "invalid JSON: body is empty"),
        (b"{", "invalid JSON: expecting property name enclosed in double quotes at character 1"),
        (b'{"content":"a","content":"b"}', 'invalid JSON: duplicate key "content"'),
        (b'{"metadata":NaN}', "invalid JSON: NaN is not JSON"),
        (b'{"metadata":' + b"[" * 100 + b"]" * 100 + b"}", "invalid JSON: nested deeper than 64 levels"),
    ],
)
async def test_a_body_that_does_not_parse_is_refused(api: Client, body: bytes, error: str) -> None:
    answer = await api.post("/memories", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.requirement("mem9.error.text")
async def test_text_that_cannot_be_stored_is_refused(api: Client) -> None:
    json_header = {"Content-Type": "application/json"}
    answers = [
        await api.post("/memories", content=rb'{"content":"a\u0000"}', headers=json_header),
        await api.post("/memories", content=rb'{"messages":[{"role":"\ud800","content":"a"}]}', headers=json_header),
        await api.post("/memories", content=b'{"content":"\xff"}', headers=json_header),
        await api.get("/memories?q=%00"),
        await api.get("/memories?tags=%ff"),
        await api.get("/memories/%00"),
        await api.post("/imports", files={"file": ("a", b"x")}, data={"file_type": "memory", "agent_id": "\x00"}),
    ]
    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [
        (400, "content: must not contain NUL characters"),
        (400, "messages[0].role: must not contain lone surrogates"),
        (400, "invalid JSON: not UTF-8 at byte 12"),
        (400, "query: must not contain NUL characters"),
        (400, "query: must be UTF-8"),
        (400, "path: must not contain NUL characters"),
        (400, "agent_id: must not contain NUL characters"),
    ]


@pytest.mark.requirement("mem9.error.media")
async def test_another_media_type_is_refused(api: Client) -> None:
    form = await api.post("/memories", data={"content": "a"})
    json = await api.post("/imports", json={"file": "a"})
    assert (form.status_code, form.json()) == (415, {"error": "content-type: must be application/json"})
    assert (json.status_code, json.json()) == (415, {"error": "content-type: must be multipart/form-data"})


@pytest.mark.requirement("mem9.error.too_large")
async def test_a_body_beyond_its_limit_is_refused(api: Client) -> None:
    answer = await api.post("/memories", json={"content": "a", "ignored": "x" * (16 * 1024 * 1024)})
    assert (answer.status_code, answer.json()) == (413, {"error": "body: larger than 16777216 bytes"})


@pytest.mark.requirement("mem9.error.internal", "mem9.error.table")
@pytest.mark.parametrize(
    ("failure", "status", "error", "retry_after"),
    [
        (RuntimeError("secret detail"), 500, "internal server error", None),
        (StorageDamaged("page 7"), 500, "stored data is damaged, the operator has to look at it", None),
        (StorageFull("no room to write"), 503, "no room to write", "60"),
    ],
)
async def test_failures_of_the_server_are_told_without_detail(
    api: Client,
    house: Any,
    *,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    status: int,
    error: str,
    retry_after: str | None,
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(type(house.engine.read), "list", AsyncMock(side_effect=failure))
    answer = await api.get("/memories")
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers.get("retry-after") == retry_after


@pytest.mark.requirement("mem9.error.scope")
async def test_a_key_without_the_scope_is_forbidden(house: Any, key: str, caller: Any) -> None:
    principal = await house.engine.keys.authenticate(key)
    made = await house.engine.keys.create(principal.tenant_id, name="reader", scopes={Scope.READ})
    async with caller.with_key(made.secret) as reader:
        allowed = await reader.get("/memories")
        refused = await reader.post("/memories", json={"content": "a"})
    assert allowed.status_code == 200
    assert (refused.status_code, refused.json()) == (403, {"error": "this key lacks the scope write"})


@pytest.mark.requirement("mem9.request_id")
async def test_every_answer_has_a_request_id(anyone: Client) -> None:
    own = await anyone.get("/v1alpha2/none", headers={"X-Request-Id": "trace-7"})
    made = await anyone.get("/healthz")
    assert own.headers["x-request-id"] == "trace-7"
    assert uuid.UUID(made.headers["x-request-id"]).version == 7


# --- limits ----------------------------------------------------------------------------------------------


async def _put_on_plan(house: Any, key: str, plan: Plan) -> None:
    principal = await house.engine.keys.authenticate(key)
    await house.engine.accounts.put_plan(plan)
    await house.engine.accounts.set_tenant(principal.tenant_id, plan=plan.name)


@pytest.mark.requirement("mem9.rate", "mem9.error.table")
async def test_a_spent_plan_is_told_and_recovers(house: Any, key: str, api: Client, clock: Any) -> None:
    await _put_on_plan(house, key, Plan(name="two", requests_per_minute=60, burst=2, max_memories=None))
    answers = [await api.get("/memories") for _ in range(3)]
    now = clock.now().timestamp()
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"60"}
    assert answers[0].headers["x-ratelimit-reset"] == str(int(now + 1.999))
    assert answers[2].json() == {"error": "rate limit exceeded"}
    assert answers[2].headers["retry-after"] == "1"
    clock.advance(1)
    assert (await api.get("/memories")).status_code == 200


@pytest.mark.requirement("mem9.queries", "mem9.error.table")
async def test_a_spent_day_refuses_searches_until_the_next_one(house: Any, key: str, api: Client, clock: Any) -> None:
    plan = Plan(name="asks", requests_per_minute=6000, burst=100, max_memories=None, queries_per_day=2)
    await _put_on_plan(house, key, plan)
    left = 86_400 - clock.now().timestamp() % 86_400
    answers = [await api.get("/memories", params={"q": "a", "limit": limit}) for limit in (1, 2, 3)]
    bad = await api.get("/memories", params={"q": "a", "state": "unheard"})
    listed = await api.get("/memories")
    assert [answer.status_code for answer in (*answers, bad, listed)] == [200, 200, 429, 400, 200]
    assert answers[2].json() == {"error": "plan limit reached: 2 queries a day"}
    assert int(answers[2].headers["retry-after"]) == math.ceil(left)
    clock.advance(left)
    assert (await api.get("/memories", params={"q": "a"})).status_code == 200


@pytest.mark.requirement("mem9.quota", "mem9.error.table")
async def test_a_full_plan_refuses_the_next_memory(house: Any, key: str, api: Client) -> None:
    await _put_on_plan(house, key, Plan(name="one", requests_per_minute=6000, burst=100, max_memories=1))
    first = await api.post("/memories", json={"content": "a"})
    second = await api.post("/memories", json={"content": "b"})
    assert first.status_code == 202
    assert (second.status_code, second.json()) == (402, {"error": "plan limit reached: 1 memories"})


@pytest.mark.requirement("mem9.idempotency", "mem9.error.table")
async def test_a_repeated_write_is_answered_from_the_first(api: Client, key: str, anyone: Client) -> None:
    once = {"Idempotency-Key": "order-1"}
    first = await api.post("/memories", json={"content": "kept once"}, headers=once)
    again = await api.post("/memories", json={"content": "kept once"}, headers=once)
    other = await api.post("/memories", json={"content": "something else"}, headers=once)
    moved = await anyone.post(f"{ALPHA1}/{key}/memories", json={"content": "kept once"}, headers=once)
    page = (await api.get("/memories")).json()
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert other.status_code == moved.status_code == 409
    assert list(other.json()) == ["error"]
    assert [memory["content"] for memory in page["memories"]] == ["kept once"]


@pytest.mark.requirement("mem9.idempotency")
@pytest.mark.parametrize(
    "content", [{"content": "pin", "memory_type": "pinned"}, {"messages": [{"role": "u", "content": "x"}]}]
)
async def test_every_kind_of_write_repeats_harmlessly(api: Client, content: dict[str, Any]) -> None:
    once = {"Idempotency-Key": "order-2"}
    first = await api.post("/memories", json=content, headers=once)
    again = await api.post("/memories", json=content, headers=once)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    page = (await api.get("/memories?memory_type=insight,pinned,session")).json()
    assert page["total"] == 1
