"""Keys, callers, dialect discovery, faults."""

import re

import pytest
from starlette.datastructures import Headers

from polymem.domain.model import JobKind, JobState
from polymem.engine.requests import RateState
from polymem.errors import DailyLimitReached, ErrorCode, NotFound, RateLimited, SettingsInvalid
from polymem.http.app import known_dialects, load_dialect
from polymem.http.auth import key_in_headers, names_loopback_host, redacted_path
from polymem.http.kit import FAULT_CODES, Violation
from polymem.http.kit.faults import fault_of
from polymem.http.limits import rate_headers, sane_request_id
from polymem.http.metrics import Metrics
from polymem.ports.queue import JobCounts


def test_x_api_key_counts_before_a_bearer_token() -> None:
    assert key_in_headers(Headers({"X-API-Key": "a", "Authorization": "Bearer b"})) == "a"
    assert key_in_headers(Headers({"X-API-Key": "", "Authorization": "bearer  b "})) == "b"


@pytest.mark.parametrize(
    ("headers", "is_local"),
    [
        ({"Host": "localhost:8765"}, True),
        ({"Host": "127.0.0.1"}, True),
        ({"Host": "[::1]:8765"}, True),
        ({"Host": "localhost", "Origin": "http://127.0.0.1:3000"}, True),
        ({"Host": "evil.example.org:8765"}, False),
        ({"Host": "localhost", "Origin": "https://evil.example.org"}, False),
        ({"Host": "localhost", "Origin": "null"}, False),
        ({}, False),
    ],
)
def test_only_names_of_this_machine_pass_as_local(headers: dict[str, str], *, is_local: bool) -> None:
    assert names_loopback_host(Headers(headers)) is is_local


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/with/secret/more", "/with/***/more"),
        ("/with/se%63ret", "/with/***"),
        ("/other/secret", "/other/secret"),
        ("/x/pm_abcdefghijkl", "/x/***"),
        ("/x/mxk_0123456789abcdef/y", "/x/***/y"),
        ("/x/mk_live_0123456789abcdef", "/x/***"),
    ],
)
def test_paths_are_shown_without_keys(path: str, shown: str) -> None:
    assert redacted_path(path, re.compile("/with/(?P<key>[^/]+)")) == shown
    assert redacted_path("/with/secret", None) == "/with/secret"


def test_a_provisioned_key_in_the_wrong_place_is_kept_out_of_logs_and_our_own_ids_are_not() -> None:
    key, own = "442c553a-16eb-4885-b8d3-da7227b9de98", "01a1fdf5-071b-742a-b7f3-a7a3512ec0e8"
    assert redacted_path(f"/v1alpha2/mem9s/{key}/memories/{own}", None) == f"/v1alpha2/mem9s/***/memories/{own}"


def test_a_request_id_that_is_the_key_by_mistake_is_not_taken_over() -> None:
    key = "442c553a-16eb-4885-b8d3-da7227b9de98"
    assert sane_request_id(Headers({"X-Request-Id": key})) == key
    assert sane_request_id(Headers({"X-Request-Id": key, "X-API-Key": key})) is None


def test_dialects_are_found_by_their_modules() -> None:
    assert "mem9" in known_dialects()
    assert load_dialect("mem9").name == "mem9"
    with pytest.raises(SettingsInvalid, match="parrot is not one of"):
        load_dialect("parrot")


def test_every_dialect_answers_every_fault() -> None:
    for name in known_dialects():
        assert load_dialect(name).errors.keys() == FAULT_CODES


def test_waiting_is_told_in_whole_seconds_of_at_least_one() -> None:
    assert fault_of(RateLimited(0.01), "r").retry_after_seconds == 1
    assert fault_of(RateLimited(61.2), "r").retry_after_seconds == 62
    assert fault_of(DailyLimitReached(5, 0.2), "r").retry_after_seconds == 1
    assert fault_of(NotFound("memory", "7"), "r").retry_after_seconds is None
    assert fault_of(NotFound("memory", "7"), "r").code is ErrorCode.NOT_FOUND


def test_a_violation_names_its_place_briefly() -> None:
    assert Violation(("messages", 0, "role"), "").field == "messages[0].role"
    assert Violation((), "").field == "body"
    assert len(Violation(("x" * 10_000,), "").field) == 200


def test_rate_headers_are_whole_and_never_negative() -> None:
    assert rate_headers(RateState(limit=60, remaining=-1, reset_seconds=-3.0), 1000.2) == {
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1001",
    }


def test_metrics_are_told_in_the_prometheus_format() -> None:
    metrics = Metrics()
    metrics.recall_answered("mem9", 0.02)
    metrics.memories_written("mem9", 3)
    metrics.jobs_counted(JobCounts(by_kind_and_state={(JobKind.EMBED, JobState.FAILED): 2}))
    lines = metrics.exposition().decode().splitlines()
    assert 'polymem_recall_seconds_count{dialect="mem9"} 1.0' in lines
    assert 'polymem_memories_written_total{dialect="mem9"} 3.0' in lines
    assert 'polymem_jobs{kind="embed",state="failed"} 2.0' in lines
