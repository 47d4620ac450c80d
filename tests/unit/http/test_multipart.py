"""Forms are taken in as they arrive: one file, a few fields, everything bounded."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

from polymem.http.kit import multipart

Cage = Any
HEADERS = {"Content-Type": "multipart/form-data; boundary=cut"}


def part(head: str, body: bytes = b"x") -> bytes:
    return f"--cut\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--cut--\r\n"


FILE = part('name="file"; filename="notes.txt"', b"hello")


async def post(cage: Cage, content: Any, headers: dict[str, str] = HEADERS) -> Any:
    async with cage.keyed() as client:
        return await client.post("/parrot/upload", content=content, headers=headers)


async def test_a_file_and_fields_are_received_in_any_order(cage: Cage) -> None:
    answer = await post(cage, form(part('name="kind"', "späße".encode()), FILE, part('name="more"', b"")))
    assert answer.json() == {"file": "notes.txt", "size": 5, "kind": "späße", "more": ""}
    assert cage.seen.files == [b"hello"]


async def test_a_large_file_is_received_byte_for_byte(cage: Cage) -> None:
    content = bytes(range(256)) * 10_000

    async def chunks() -> Any:
        whole = form(part('name="file"; filename="big"', content))
        for start in range(0, len(whole), 7_001):
            yield whole[start : start + 7_001]

    answer = await post(cage, chunks())
    assert answer.json()["size"] == len(content)
    assert cage.seen.files == [content]


async def test_a_form_without_a_file_has_none(cage: Cage) -> None:
    assert (await post(cage, form(part('name="kind"')))).json() == {"file": None, "size": 0, "kind": "x"}


async def test_the_same_form_has_the_same_digest_whatever_its_boundary_and_order(cage: Cage) -> None:
    one = {**HEADERS, "Idempotency-Key": "once"}
    other = {"Content-Type": "multipart/form-data; boundary=other", "Idempotency-Key": "once"}
    first = form(part('name="kind"'), FILE)
    await post(cage, first, one)
    await post(cage, form(FILE, part('name="kind"')).replace(b"--cut", b"--other"), other)
    await post(cage, first.replace(b"hello", b"jello"), one)
    digests = [call.idempotency.digest for call in cage.seen.calls]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("content", "headers", "status", "text"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415, "content-type: must be multipart/form-data"),
        (b"{}", {}, 415, "content-type: must be multipart/form-data"),
        (form(FILE), {"Content-Type": "multipart/form-data"}, 400, "multipart boundary required"),
        (
            form(FILE),
            {"Content-Type": "multipart/form-data; boundary=" + "x" * 300},
            400,
            "multipart boundary is not usable",
        ),
        (b"", HEADERS, 400, "is not a well-formed multipart form"),
        (b"nonsense", HEADERS, 400, "is not a well-formed multipart form"),
        (FILE, HEADERS, 400, "is not a well-formed multipart form"),
        (form(FILE, FILE), HEADERS, 400, "only one file is taken"),
        (form(*[part('name="a"')] * 33), HEADERS, 400, "too many parts (max 32)"),
        (form(part('name="a"', b"x" * 70_000)), HEADERS, 400, "too long (max 65536)"),
        (form(part('name="a"', b"\xff")), HEADERS, 400, "must be UTF-8"),
        (form(part('name="a"', b"\x00")), HEADERS, 400, "must not contain NUL characters"),
        (form(part('name="file"; filename="a\x00"', b"x")), HEADERS, 400, None),
        (form(part('name="a"; x="' + "y" * 20_000 + '"')), HEADERS, 400, "is not a well-formed multipart form"),
    ],
)
async def test_what_is_no_good_form_is_refused(
    cage: Cage, content: bytes, headers: dict[str, str], status: int, text: str | None
) -> None:
    answer = await post(cage, content, headers)
    assert answer.status_code == status
    if text is not None:
        assert answer.json()["failure"]["text"] == text
    assert cage.seen.calls == []


async def test_a_form_beyond_the_limit_is_refused(cage: Cage) -> None:
    answer = await post(cage, form(part('name="file"; filename="big"', b"x" * 3_000_001)))
    assert (answer.status_code, answer.json()["failure"]["kind"]) == (413, "too_large")


async def test_a_form_that_never_ends_is_cut_off(cage: Cage) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        yield part('name="file"; filename="big"')
        while True:
            sent += 1
            yield b"x" * 1_000_000

    answer = await post(cage, chunks())
    assert answer.status_code == 413
    assert sent < 100


async def test_a_full_disk_is_told_as_unavailable(
    make_cage: Callable[..., Cage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: object, _piece: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(multipart._Receiver, "_store", full)
    answer = await post(make_cage(), form(FILE))
    assert (answer.status_code, answer.json()["failure"]["text"]) == (503, "no room for the uploaded file")
