"""What the kit does for any dialect, shown with one whose manners no real dialect has."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from polymem.engine.requests import Health
from polymem.errors import InvalidInput, SettingsInvalid, StorageUnavailable
from polymem.http.auth import key_in_headers
from polymem.http.kit import FAULT_CODES, Dialect, ErrorRule
from polymem.http.kit.dialect import no_agent
from polymem.http.kit.stack import DialectStack

SECRET = "pm_0123456789abcdef0123456789"
KEY = {"X-API-Key": SECRET}
Cage = Any


def kind_of(answer: Any) -> str:
    kind: str = answer.json()["failure"]["kind"]
    return kind


async def test_an_admitted_request_reaches_its_handler(cage: Cage) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "hi"})
    assert (answer.status_code, answer.json()) == (200, {"said": "hi"})
    assert cage.seen.calls[0].principal.user_id == "user"
    assert cage.seen.calls[0].idempotency is None


async def test_every_answer_carries_id_rate_security_and_dialect_headers(cage: Cage) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "hi"}, headers={"X-Request-Id": "mine-1"})
    told = {name: answer.headers[name] for name in answer.headers if name != "content-length"}
    assert told == {
        "content-type": "application/json",
        "x-request-id": "mine-1",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "x-parrot": "yes",
        "x-ratelimit-limit": "60",
        "x-ratelimit-remaining": "999",
        "x-ratelimit-reset": "1772366401",
    }
    assert cage.seen.calls[0].request_id == "mine-1"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "späße"])
async def test_an_unfit_request_id_is_replaced(cage: Cage, given: str) -> None:
    async with cage.client() as client:
        answer = await client.get("/parrot/hello", headers={b"X-Request-Id": given.encode()})
    assert answer.headers["x-request-id"] == "id-1"


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": SECRET}, {"x-api-key": SECRET}, {"Authorization": f"Bearer {SECRET}"}]
)
async def test_a_key_works_in_whichever_header(cage: Cage, headers: dict[str, str]) -> None:
    async with cage.client() as client:
        assert (await client.get("/parrot/look/7", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, "missing_key"),
        ({"X-API-Key": " "}, "missing_key"),
        ({"Authorization": "Basic abc"}, "missing_key"),
        ({"Authorization": "Bearer "}, "missing_key"),
        ({"X-API-Key": "wrong"}, "invalid_key"),
        ({"Authorization": "Bearer wrong"}, "invalid_key"),
        ({"X-API-Key": "inactive-inactive"}, "forbidden"),
    ],
)
async def test_a_request_without_a_good_key_is_refused(cage: Cage, headers: dict[str, str], kind: str) -> None:
    async with cage.client() as client:
        answer = await client.get("/parrot/look/7", headers=headers)
    assert kind_of(answer) == kind
    assert answer.status_code == (403 if kind == "forbidden" else 401)
    assert answer.headers.get("www-authenticate") == (None if kind == "forbidden" else "Bearer")


async def test_failed_keys_are_counted_for_addresses_other_than_this_machine(cage: Cage) -> None:
    async with cage.client(address="192.0.2.7") as client:
        await client.get("/parrot/look/7", headers={"X-API-Key": "wrong"})
    async with cage.client() as client:
        await client.get("/parrot/look/7", headers={"X-API-Key": "wrong"})
    async with cage.client() as client:
        await client.get("/parrot/look/7", headers={"X-API-Key": "wrong", "X-Forwarded-For": "1.2.3.4"})
    assert cage.engine.limits.strangers == ["192.0.2.7", "127.0.0.1"]


async def test_a_key_in_the_path_counts_before_one_in_a_header(cage: Cage) -> None:
    async with cage.client() as client:
        good = await client.get(f"/parrot/with/{SECRET}/tenant", headers={"X-API-Key": "wrong"})
        bad = await client.get("/parrot/with/wrong/tenant", headers=KEY)
    assert good.json() == {"tenant": "tenant"}
    assert (bad.status_code, kind_of(bad)) == (401, "invalid_key")


async def test_an_open_route_ignores_keys(cage: Cage) -> None:
    async with cage.client() as client:
        answer = await client.get("/parrot/hello", headers={"X-API-Key": "wrong"})
    assert answer.json() == {"hello": "you"}


async def test_an_open_route_has_no_principal(cage: Cage, caplog: pytest.LogCaptureFixture) -> None:
    async with cage.client() as client:
        answer = await client.get("/parrot/nobody")
    assert (answer.status_code, kind_of(answer)) == (500, "internal")
    assert "open and has no principal" in caplog.text


async def test_the_agent_of_a_request_is_part_of_the_principal(cage: Cage) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/maybe", headers={"X-Parrot-Agent": "ada"})
    assert answer.json() == {"said": None, "agent": "ada"}


async def test_a_spent_plan_is_answered_with_whole_seconds_to_wait(cage: Cage) -> None:
    cage.engine.limits.left = 0
    async with cage.keyed() as client:
        answer = await client.get("/parrot/look/7")
    assert (answer.status_code, kind_of(answer)) == (429, "rate_limited")
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert answer.headers["x-ratelimit-limit"] == "60"
    assert answer.json()["failure"]["again"] is True


async def test_a_handler_counts_a_query_and_a_spent_day_is_answered_with_the_time_to_its_end(cage: Cage) -> None:
    cage.engine.limits.queries_left = 1
    async with cage.keyed() as client:
        answers = [await client.get("/parrot/ask") for _ in range(2)]
        other = await client.get("/parrot/look/7")
    assert [answer.status_code for answer in (*answers, other)] == [200, 429, 200]
    assert kind_of(answers[1]) == "queries_exhausted"
    assert answers[1].json()["failure"]["again"] is False
    assert answers[1].headers["retry-after"] == "4322"
    assert answers[1].headers["x-ratelimit-remaining"] == "998"


RATE = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


def rate_of(answer: Any) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(name) for name in RATE)


async def test_every_answer_tells_the_rate_where_a_dialect_asks_for_it(make_cage: Callable[..., Cage]) -> None:
    cage = make_cage(kind=lambda dialect: replace(dialect, always_tells_rate=True), is_loopback=True)
    async with cage.client("10.0.0.9") as far, cage.client() as near, cage.keyed() as keyed:
        missing = [await far.get("/parrot/look/7"), await far.get("/parrot/none"), await far.get("/parrot/hello")]
        strange = await far.get("/parrot/look/7", headers={"X-API-Key": "wrong"})
        later = await far.post("/parrot/hello")
        long = await far.get(f"/parrot/look/{'x' * 20_000}")
        local = [await near.get("/parrot/hello"), await near.get("/parrot/look/7", headers={"X-API-Key": "wrong"})]
        large = await keyed.post("/parrot/small", json={"text": "x" * 99})
    assert [answer.status_code for answer in missing] == [401, 404, 200]
    assert {rate_of(answer) for answer in (*missing, *local)} == {("120", "60", "1772366400")}
    assert (strange.status_code, later.status_code, long.status_code) == (401, 405, 413)
    assert {rate_of(answer) for answer in (strange, later, long)} == {("120", "59", "1772366401")}
    assert (large.status_code, rate_of(large)) == (413, ("60", "999", "1772366401"))
    assert cage.engine.limits.strangers == ["10.0.0.9"]


async def test_other_dialects_tell_the_rate_of_a_key_alone(cage: Cage) -> None:
    async with cage.client("10.0.0.9") as client:
        answers = [await client.get("/parrot/look/7"), await client.get("/parrot/hello")]
    assert {rate_of(answer) for answer in answers} == {(None, None, None)}


@pytest.mark.parametrize("path", ["/parrot", "/parrot/", "/parrot/none", "/parrot/echo/more", "/parrot//echo"])
async def test_an_unknown_route_has_the_dialects_shape_and_needs_no_key(cage: Cage, path: str) -> None:
    async with cage.client() as client:
        answer = await client.get(path)
    assert (answer.status_code, kind_of(answer)) == (404, "route_not_found")


async def test_another_method_is_refused_with_the_allowed_ones(cage: Cage) -> None:
    async with cage.client() as client:
        answer = await client.delete("/parrot/echo")
    assert (answer.status_code, kind_of(answer), answer.headers["allow"]) == (405, "method_not_allowed", "POST")


async def test_a_trailing_slash_is_the_same_route_without_a_redirect(cage: Cage) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo/", json={"text": "hi"})
    assert (answer.status_code, answer.json()) == (200, {"said": "hi"})


async def test_a_head_request_is_a_get_without_its_body(cage: Cage) -> None:
    async with cage.client() as client:
        answer = await client.head("/parrot/hello")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len('{"hello":"you"}'))


# --- bodies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"Content-Type": "text/plain"}, "content-type: must be application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "content-type: must be application/json"),
        ({"Content-Type": "application/json; charset=latin-1"}, "content-type: charset must be utf-8"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, "content-encoding: must be identity"),
    ],
)
async def test_another_media_type_is_refused(cage: Cage, headers: dict[str, str], text: str) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", content=b'{"text":"hi"}', headers=headers)
    assert (answer.status_code, answer.json()["failure"]["text"]) == (415, text)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "application/json; charset=UTF-8"}, {"Content-Type": "application/vnd.parrot+json"}],
)
async def test_json_is_taken_under_each_of_its_names(cage: Cage, headers: dict[str, str]) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", content=b'{"text":"hi"}', headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/parrot/echo", "/parrot/small"])
async def test_a_body_beyond_the_routes_limit_is_refused_by_its_declared_length(cage: Cage, path: str) -> None:
    body = json.dumps({"text": "x" * 100_000}).encode()
    async with cage.keyed() as client:
        answer = await client.post(path, content=body)
    assert (answer.status_code, kind_of(answer)) == (413, "too_large")
    assert cage.seen.bodies == []


async def test_a_body_beyond_the_limit_is_refused_without_a_declared_length(cage: Cage) -> None:
    async def chunks() -> Any:
        for _ in range(200):
            yield b" " * 1000

    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", content=chunks())
    assert (answer.status_code, kind_of(answer)) == (413, "too_large")


async def test_a_body_that_never_ends_is_cut_off(cage: Cage) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1_000_000

    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", content=chunks())
    assert (answer.status_code, kind_of(answer)) == (413, "too_large")
    assert sent < 100


async def test_an_optional_body_may_be_left_out_and_a_required_one_not(cage: Cage) -> None:
    async with cage.keyed() as client:
        optional = await client.post("/parrot/maybe")
        required = await client.post("/parrot/echo")
    assert optional.json() == {"said": None, "agent": None}
    assert (required.status_code, required.json()["failure"]["text"]) == (400, "body is empty")


async def test_a_large_body_is_parsed_as_a_small_one(make_cage: Callable[..., Cage]) -> None:
    cage = make_cage(kind=lambda dialect: replace(dialect, body_limit=1_000_000))
    padding = " " * 900_000
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", content=f'{{"text":"hi"{padding}}}'.encode())
    assert answer.json() == {"said": "hi"}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, [{"at": ["text"], "text": "required"}]),
        ({"text": 5}, [{"at": ["text"], "text": "must be a string"}]),
        ({"text": "x", "count": "1"}, [{"at": ["count"], "text": "must be an integer"}]),
        ({"text": "x", "count": True}, [{"at": ["count"], "text": "must be an integer"}]),
        ({"text": "x", "count": 0}, [{"at": ["count"], "text": "must be at least 1"}]),
        ({"text": "x" * 5001}, [{"at": ["text"], "text": "too long (max 5000)"}]),
        (
            {"text": "x", "count": 10, "names": ["a", 1]},
            [{"at": ["count"], "text": "must be at most 9"}, {"at": ["names", 1], "text": "must be a string"}],
        ),
        ({"text": "x", "names": ["a", "b", "c"]}, [{"at": ["names"], "text": "too many (max 2)"}]),
        ([], [{"at": [], "text": "must be an object"}]),
        ("text", [{"at": [], "text": "must be an object"}]),
        (None, [{"at": [], "text": "must be an object"}]),
    ],
)
async def test_schema_violations_name_their_place_in_our_words(cage: Cage, body: object, where: object) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", content=json.dumps(body).encode())
    assert (answer.status_code, kind_of(answer)) == (422, "schema_mismatch")
    assert answer.json()["failure"]["where"] == where


async def test_query_violations_have_the_dialects_shape(cage: Cage) -> None:
    async with cage.keyed() as client:
        answer = await client.get("/parrot/look/7?page=x")
    assert answer.json()["failure"]["where"] == [{"at": ["page"], "text": "must be an integer"}]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "expecting property name enclosed in double quotes at character 1"),
        (b'{"text":"\xff"}', "not UTF-8 at byte 9"),
        (b'{"text":NaN}', "NaN is not JSON"),
        (b'{"text":1e999}', "number out of range"),
        (b'{"text":"a","text":"b"}', 'duplicate key "text"'),
        (b"[" * 100_000, "nested deeper than 64 levels"),
        (b'{"text":"\\ud800"}', "must not contain lone surrogates"),
        (b'{"text":"a\\u0000"}', "must not contain NUL characters"),
    ],
)
async def test_json_with_no_single_storable_meaning_is_refused(cage: Cage, body: bytes, text: str) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", content=body)
    assert (answer.status_code, answer.json()["failure"]["text"]) == (400, text)


# --- targets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/parrot/look/%00", "invalid_input"),
        ("/parrot/look/%ff", "invalid_input"),
        ("/parrot/look/7?page=%ff", "invalid_input"),
        ("/parrot/look/7?page=%00", "invalid_input"),
        ("/parrot/look/" + "x" * 17_000, "too_large"),
        ("/parrot/look/7?page=" + "1" * 17_000, "too_large"),
    ],
)
async def test_a_target_with_unfit_bytes_or_too_many_is_refused(cage: Cage, path: str, kind: str) -> None:
    async with cage.keyed() as client:
        answer = await client.get(path)
    assert (answer.status_code, kind_of(answer)) == (413 if kind == "too_large" else 400, kind)


async def test_headers_beyond_their_limit_are_refused(cage: Cage) -> None:
    async with cage.keyed() as client:
        answer = await client.get("/parrot/look/7", headers={"X-Filler": "x" * 33_000})
    assert (answer.status_code, kind_of(answer)) == (413, "too_large")


# --- idempotency -----------------------------------------------------------------------------------------


async def claims_of(cage: Cage, *requests: tuple[str, dict[str, str], object]) -> list[Any]:
    async with cage.keyed() as client:
        for path, headers, body in requests:
            await client.post(path, json=body, headers=headers)
    return [call.idempotency for call in cage.seen.calls]


async def test_an_idempotency_key_is_bound_to_path_query_and_body(cage: Cage) -> None:
    one = {"Idempotency-Key": "once"}
    claims = await claims_of(
        cage,
        ("/parrot/echo", one, {"text": "a"}),
        ("/parrot/echo", one, {"text": "a"}),
        ("/parrot/echo/", one, {"text": "a"}),
        ("/parrot/echo", one, {"text": "b"}),
        ("/parrot/echo?x=1", one, {"text": "a"}),
    )
    digests = [claim.digest for claim in claims]
    assert {claim.key for claim in claims} == {"once"}
    assert len(digests[0]) == 64
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "ä"])
async def test_an_idempotency_key_must_be_short_and_visible(cage: Cage, key: str) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "a"}, headers={b"Idempotency-Key": key.encode()})
    assert (answer.status_code, answer.json()["failure"]["text"]) == (400, "must be 1 to 255 visible characters")


# --- failures --------------------------------------------------------------------------------------------


async def test_an_error_of_the_engine_is_answered_by_the_error_table(cage: Cage) -> None:
    cage.seen.error = InvalidInput("text", "is no good")
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "a"}, headers={"X-Request-Id": "r1"})
    assert answer.json() == {
        "failure": {"kind": "invalid_input", "text": "is no good", "request": "r1", "again": False, "where": []}
    }


async def test_an_error_of_the_framework_is_a_fault_of_the_body(cage: Cage) -> None:
    cage.seen.error = HTTPException(400, "cannot be read")
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "a"})
    assert (answer.status_code, answer.json()["failure"]["text"]) == (400, "cannot be read")


async def test_a_violation_without_words_of_ours_is_told_in_the_frameworks(cage: Cage) -> None:
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "a", "names": ["a"], "when": "never"})
    assert answer.json()["failure"]["where"] == [{"at": ["when"], "text": "input should be a valid date"}]


async def test_a_key_that_fails_away_from_any_address_is_counted(cage: Cage) -> None:
    await speak(cage, "GET", "/parrot/look/7", key=b"wrong")
    assert cage.engine.limits.strangers == [""]


async def test_two_dialects_cannot_claim_one_path(make_cage: Callable[..., Cage]) -> None:
    with pytest.raises(SettingsInvalid, match="both claim /parrot"):
        make_cage(times=2)


async def test_a_dialect_may_know_no_other_key_than_the_headers(make_cage: Callable[..., Cage]) -> None:
    cage = make_cage(kind=lambda dialect: replace(dialect, key_in_path=None, agent_of=no_agent, key_of=key_in_headers))
    async with cage.keyed() as client:
        seen = (await client.get("/parrot/with/any/tenant")).json()
    assert seen == {"tenant": "tenant"}


async def test_a_dialect_at_the_root_takes_what_no_other_claims(make_cage: Callable[..., Cage]) -> None:
    cage = make_cage(kind=lambda dialect: replace(dialect, paths=("",), docs_base=""))
    async with cage.keyed() as client:
        answers = [await client.get(path) for path in ("/parrot/look/7", "/docs", "/openapi.json", "/else", "/livez")]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 200]
    assert kind_of(answers[3]) == "route_not_found"


async def test_a_part_that_cannot_serve_now_says_when_to_come_back(cage: Cage) -> None:
    cage.seen.error = StorageUnavailable("the storage is busy")
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_an_unforeseen_failure_is_logged_once_and_never_shown(
    cage: Cage, caplog: pytest.LogCaptureFixture
) -> None:
    cage.seen.error = RuntimeError("secret detail")
    async with cage.keyed() as client:
        answer = await client.post("/parrot/echo", json={"text": "a"}, headers={"X-Request-Id": "r1"})
    assert answer.status_code == 500
    assert answer.json()["failure"] == {
        "kind": "internal",
        "text": "internal server error",
        "request": "r1",
        "again": False,
        "where": [],
    }
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.__dict__["request_id"] for record in failures] == ["r1"]


async def speak(cage: Cage, method: str, path: str, *messages: Any, key: bytes = SECRET.encode()) -> list[Any]:
    """What is sent to a client that says just these messages and then waits."""
    sent: list[Any] = []
    said = iter(messages)

    async def receive() -> Any:
        message = next(said, None)
        return await asyncio.Event().wait() if message is None else message

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"x-api-key", key)],
        "client": None,
    }
    await asyncio.wait_for(cage.app(scope, receive, send), 5)
    return sent


async def test_a_failure_outside_the_dialects_own_application_has_its_shape_too(cage: Cage) -> None:
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("secret detail")

    stack = DialectStack(cage.dialect, cage.seen.context, broken)
    sent = await speak(replace(cage, app=stack), "GET", "/parrot/hello")
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["failure"]["text"] == "internal server error"


async def test_a_failure_after_the_answer_began_is_logged(cage: Cage, caplog: pytest.LogCaptureFixture) -> None:
    answer = await speak(cage, "GET", "/parrot/half", {"type": "http.request", "body": b""})
    assert [message.get("body") for message in answer] == [None, b"first"]
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["request failed"]


async def test_a_client_that_goes_away_is_no_failure(cage: Cage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "polymem.http.access")
    await speak(cage, "POST", "/parrot/echo", {"type": "http.disconnect"})
    assert [record.__dict__["status"] for record in caplog.records] == [499]
    assert cage.seen.bodies == []


async def test_a_dialect_must_answer_every_fault() -> None:
    with pytest.raises(ValueError, match="no answer for"):
        Dialect(
            name="mute",
            title="",
            description="",
            paths=("/mute",),
            docs_base="/mute",
            add_routes=lambda _router, _context: None,
            errors={code: ErrorRule(400, lambda _fault: None) for code in list(FAULT_CODES)[1:]},
        )


# --- documents -------------------------------------------------------------------------------------------


async def test_a_dialect_has_its_own_openapi_document(cage: Cage) -> None:
    async with cage.client() as client:
        document = (await client.get("/parrot/openapi.json")).json()
    assert document["info"]["title"] == "Parrot"
    assert set(document["paths"]) == {
        "/parrot/echo",
        "/parrot/maybe",
        "/parrot/look/{name}",
        "/parrot/ask",
        "/parrot/hello",
        "/parrot/nobody",
        "/parrot/upload",
        "/parrot/half",
        "/parrot/small",
        "/parrot/with/{key}/tenant",
    }
    assert document["paths"]["/parrot/echo"]["post"]["security"] == [{"apiKey": []}, {"bearer": []}]
    assert "security" not in document["paths"]["/parrot/hello"]["get"]


async def test_the_docs_page_runs_only_its_own_script(cage: Cage) -> None:
    async with cage.client() as client:
        page = await client.get("/parrot/docs")
    policy = page.headers["content-security-policy"]
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in page.text.replace("openapi.json", "")


# --- around the dialects ---------------------------------------------------------------------------------


async def test_a_mounted_dialect_stands_below_its_mount_only(make_cage: Callable[..., Cage]) -> None:
    cage = make_cage(mount="/birds/")
    async with cage.keyed() as client:
        moved = await client.post("/birds/parrot/echo", json={"text": "hi"})
        gone = await client.post("/parrot/echo", json={"text": "hi"})
        document = (await client.get("/birds/parrot/openapi.json")).json()
        index = (await client.get("/")).json()
    assert moved.json() == {"said": "hi"}
    assert (gone.status_code, gone.json()) == (404, {"error": "not found"})
    assert document["servers"] == [{"url": "/birds"}]
    assert index["apis"] == [{"name": "parrot", "docs": "/birds/parrot/docs"}]


async def test_the_root_names_what_is_served(cage: Cage) -> None:
    async with cage.client() as client:
        answer = await client.get("/")
    assert answer.json() == {
        "name": "polymem",
        "version": "1.2.3",
        "apis": [{"name": "parrot", "docs": "/parrot/docs"}],
    }
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_probes_tell_serving_degraded_and_not_serving(cage: Cage) -> None:
    async with cage.client() as client:
        live = await client.get("/livez")
        ready = await client.get("/readyz/")
        cage.engine.health_now = Health(is_serving=True, degraded=("the model is missing",))
        degraded = await client.get("/readyz")
        cage.engine.health_now = Health(is_serving=False, degraded=("the storage does not answer",))
        down = await client.get("/readyz")
        cage.engine.health_error = StorageUnavailable("the storage does not answer")
        broken = await client.get("/readyz")
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "degraded": []})
    assert (degraded.status_code, degraded.json()) == (
        200,
        {"status": "degraded", "degraded": ["the model is missing"]},
    )
    assert (down.status_code, down.json()) == (
        503,
        {"status": "unavailable", "reasons": ["the storage does not answer"]},
    )
    assert (broken.status_code, broken.json()) == (503, {"error": "the storage does not answer"})


async def test_own_paths_refuse_other_methods_bad_targets_and_hide_failures(cage: Cage) -> None:
    cage.engine.health_error = RuntimeError("secret detail")
    async with cage.client() as client:
        answers = [
            await client.post("/livez"),
            await client.get("/nothing/%ff"),
            await client.get("/nothing"),
            await client.get("/readyz"),
        ]
    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [
        (405, "method not allowed"),
        (400, "must be UTF-8"),
        (404, "not found"),
        (500, "internal server error"),
    ]


async def test_metrics_count_requests_by_route_template(cage: Cage) -> None:
    async with cage.keyed() as client:
        await client.get("/parrot/look/7")
        await client.get("/parrot/look/8")
        await client.get("/parrot/none")
        await client.request("BREW", "/parrot/none")
        answer = await client.get("/metrics")
    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    counted = 'polymem_http_requests_total{dialect="parrot",method="%s",route="%s",status="%s"} %s'
    assert counted % ("GET", "/parrot/look/{name}", "200", "2.0") in lines
    assert counted % ("GET", "unmatched", "404", "1.0") in lines
    assert counted % ("OTHER", "unmatched", "404", "1.0") in lines
    assert 'polymem_jobs{kind="embed",state="queued"} 0.0' in lines
    assert "polymem_serving 1.0" in lines
    assert "polymem_degraded 0.0" in lines


async def test_metrics_answer_while_the_storage_is_away(cage: Cage) -> None:
    cage.engine.health_now = Health(is_serving=False, degraded=("storage: away",))
    async with cage.client() as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert "polymem_serving 0.0" in answer.text.splitlines()


@pytest.mark.parametrize(
    ("address", "headers", "open_on_loopback", "status"),
    [
        ("127.0.0.1", {}, True, 200),
        ("::1", {}, True, 200),
        ("::ffff:127.0.0.1", {}, True, 200),
        ("127.0.0.1", {}, False, 401),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, True, 401),
        ("127.0.0.1", {"Via": "1.1 proxy"}, True, 401),
        ("192.0.2.7", {}, True, 401),
        ("somewhere", {}, True, 401),
        ("192.0.2.7", {"X-API-Key": "wrong"}, True, 401),
        ("192.0.2.7", KEY, True, 200),
        ("127.0.0.1", KEY, False, 200),
    ],
)
async def test_metrics_need_a_key_unless_from_this_machine(
    make_cage: Callable[..., Cage], address: str, headers: dict[str, str], *, open_on_loopback: bool, status: int
) -> None:
    cage = make_cage(metrics_open_on_loopback=open_on_loopback)
    async with cage.client(address=address) as client:
        assert (await client.get("/metrics", headers=headers)).status_code == status


async def test_cors_is_closed_unless_origins_are_named(make_cage: Callable[..., Cage]) -> None:
    origin = {"Origin": "https://app.example.org"}
    async with make_cage().client() as client:
        closed = await client.get("/parrot/hello", headers=origin)
    async with make_cage(cors_origins=("https://app.example.org",)).client() as client:
        opened = await client.get("/parrot/hello", headers=origin)
        other = await client.get("/parrot/hello", headers={"Origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in closed.headers
    assert opened.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "access-control-allow-origin" not in other.headers


async def test_the_access_log_names_no_key_and_no_query(cage: Cage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "polymem.http.access")
    async with cage.keyed() as client:
        await client.get(f"/parrot/with/{SECRET}/tenant?q=private")
        await client.get(f"/parrot/other/{SECRET}")
    records = [record.__dict__ for record in caplog.records if record.name == "polymem.http.access"]
    assert [(record["path"], record["status"], record["tenant_id"]) for record in records] == [
        ("/parrot/with/***/tenant", 200, "tenant"),
        ("/parrot/other/***", 404, None),
    ]
    assert not any(SECRET in str(record) or "private" in str(record) for record in records)


async def test_lifespan_is_followed_and_websockets_are_refused(cage: Cage) -> None:
    asked = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(asked)

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(cage.app({"type": "lifespan"}, receive, send), 5)
    await asyncio.wait_for(cage.app({"type": "websocket"}, receive, send), 5)
    assert sent == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
        {"type": "websocket.close", "code": 1008},
    ]
