"""The contract of the blob port, over every implementation; and how each fails."""

import asyncio
import errno
import os
import stat
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from object_storage import Bucket, Proxy, Scripted, Silent, closed_port, listening, object_server
from polymem.domain.model import BlobId, TenantId
from polymem.errors import (
    InvalidInput,
    NotFound,
    PolymemError,
    SettingsInvalid,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    TooLarge,
)
from polymem.ports.blobs import BlobStore
from polymem.storage.blobs.filesystem import FilesystemBlobs
from polymem.storage.blobs.s3 import PART_BYTES, S3Blobs, blobs_at

TENANT = TenantId("0199aaaa-0000-7000-8000-000000000001")
OTHER = TenantId("0199aaaa-0000-7000-8000-000000000002")
BLOB = BlobId("0199bbbb-0000-7000-8000-000000000001")
SECOND = BlobId("0199bbbc-0000-7000-8000-000000000002")
MANY = 1 << 24


SECRET = "not-a-secret-anyone-has-0123456789"


@dataclass(frozen=True)
class Kept:
    """A blob store, and what lies in it as its operator sees it."""

    blobs: BlobStore
    remains: Callable[[], object]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with object_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    return Bucket(s3_endpoint).make()


@pytest.fixture(params=["filesystem", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "filesystem":
        return Kept(FilesystemBlobs(tmp_path / "blobs"), lambda: files_under(tmp_path))
    bucket: Bucket = request.getfixturevalue("bucket")
    return Kept(s3_blobs(bucket.endpoint, bucket.name, prefix="some/place"), bucket.remains)


@pytest.fixture
def blobs(kept: Kept) -> BlobStore:
    return kept.blobs


def s3_blobs(endpoint: str, bucket: str, *, prefix: str = "", request_seconds: float = 20.0) -> S3Blobs:
    return S3Blobs.connect(
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="tester",
        secret_access_key=SECRET,
        request_seconds=request_seconds,
    )


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def content(blobs: BlobStore, tenant: TenantId, blob: BlobId) -> bytes:
    return b"".join([piece async for piece in blobs.open(tenant, blob)])


async def test_what_was_put_is_read_back_whole(blobs: BlobStore) -> None:
    size = await blobs.put(TENANT, BLOB, pieces(b"one ", b"", b"two"), max_bytes=MANY)

    assert size == 7
    assert await content(blobs, TENANT, BLOB) == b"one two"


async def test_an_empty_blob_is_a_blob(blobs: BlobStore) -> None:
    assert await blobs.put(TENANT, BLOB, pieces(), max_bytes=0) == 0

    assert await content(blobs, TENANT, BLOB) == b""
    assert await blobs.list_ids(TENANT) == (BLOB,)


async def test_a_large_blob_comes_in_pieces_of_at_most_256_kib(blobs: BlobStore) -> None:
    stored = bytes(range(256)) * 4096 * 11 + b"and a rest"
    await blobs.put(
        TENANT, BLOB, pieces(*(stored[at : at + 70_001] for at in range(0, len(stored), 70_001))), max_bytes=MANY
    )

    read = [piece async for piece in blobs.open(TENANT, BLOB)]

    assert b"".join(read) == stored
    assert max(map(len, read)) <= 256 * 1024


async def test_a_blob_of_exactly_the_limit_fits(blobs: BlobStore) -> None:
    assert await blobs.put(TENANT, BLOB, pieces(b"12", b"34"), max_bytes=4) == 4


async def test_a_blob_beyond_the_limit_is_refused_and_nothing_of_it_is_left(kept: Kept) -> None:
    with pytest.raises(TooLarge) as refused:
        await kept.blobs.put(TENANT, BLOB, pieces(b"12", b"345"), max_bytes=4)

    assert (refused.value.limit, refused.value.unit) == (4, "bytes")
    assert await kept.blobs.list_ids(TENANT) == ()
    assert kept.remains() == []


async def test_a_large_blob_beyond_the_limit_is_refused_while_it_comes_and_nothing_is_left(kept: Kept) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(TooLarge):
        await kept.blobs.put(TENANT, BLOB, endless(), max_bytes=3 * PART_BYTES)

    assert taken == 3 * PART_BYTES + (1 << 20)
    assert kept.remains() == []


@pytest.mark.parametrize("size", [4, 2 * PART_BYTES])
async def test_after_a_broken_upload_nothing_of_it_is_left(kept: Kept, size: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(size)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await kept.blobs.put(TENANT, BLOB, broken(), max_bytes=MANY)

    assert await kept.blobs.list_ids(TENANT) == ()
    assert kept.remains() == []


@pytest.mark.parametrize("size", [4, 2 * PART_BYTES])
async def test_after_a_cancelled_upload_nothing_of_it_is_left(kept: Kept, size: int) -> None:
    half = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield bytes(size)
        half.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(kept.blobs.put(TENANT, BLOB, stalled(), max_bytes=MANY))
    await half.wait()
    put.cancel()

    with pytest.raises(asyncio.CancelledError):
        await put
    assert kept.remains() == []


async def test_a_blob_is_not_there_before_it_is_whole(blobs: BlobStore) -> None:
    seen: list[tuple[BlobId, ...]] = []

    async def watched() -> AsyncIterator[bytes]:
        yield b"half"
        seen.append(await blobs.list_ids(TENANT))
        yield b"rest"

    await blobs.put(TENANT, BLOB, watched(), max_bytes=MANY)

    assert seen == [()]
    assert await blobs.list_ids(TENANT) == (BLOB,)


async def test_a_second_put_under_the_same_id_replaces_the_whole_blob(blobs: BlobStore) -> None:
    await blobs.put(TENANT, BLOB, pieces(b"a longer first one"), max_bytes=MANY)
    await blobs.put(TENANT, BLOB, pieces(b"second"), max_bytes=MANY)

    assert await content(blobs, TENANT, BLOB) == b"second"


async def test_a_blob_that_is_not_there_is_not_found_at_the_first_step(blobs: BlobStore) -> None:
    with pytest.raises(NotFound):
        await anext(blobs.open(TENANT, BLOB))


async def test_a_deleted_blob_is_gone_and_deleting_it_again_is_harmless(blobs: BlobStore) -> None:
    await blobs.delete(TENANT, BLOB)
    await blobs.put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY)

    await blobs.delete(TENANT, BLOB)
    await blobs.delete(TENANT, BLOB)

    assert await blobs.list_ids(TENANT) == ()
    with pytest.raises(NotFound):
        await content(blobs, TENANT, BLOB)


async def test_ids_are_listed_sorted_and_per_tenant(blobs: BlobStore) -> None:
    for blob in (SECOND, BLOB):
        await blobs.put(TENANT, blob, pieces(b"mine"), max_bytes=MANY)
    await blobs.put(OTHER, BLOB, pieces(b"theirs"), max_bytes=MANY)

    assert await blobs.list_ids(TENANT) == (BLOB, SECOND)
    assert await blobs.list_ids(OTHER) == (BLOB,)
    assert await content(blobs, TENANT, BLOB) == b"mine"
    assert await content(blobs, OTHER, BLOB) == b"theirs"


@pytest.mark.parametrize("name", ["", "..", "../../etc", "a/b", "a\0b", "/etc/passwd", ".hidden", "x" * 200])
async def test_a_name_that_is_no_id_is_refused_everywhere(blobs: BlobStore, name: str) -> None:
    for tenant, blob in ((TenantId(name), BLOB), (TENANT, BlobId(name))):
        with pytest.raises(InvalidInput):
            await blobs.put(tenant, blob, pieces(b"x"), max_bytes=MANY)
        with pytest.raises(InvalidInput):
            await content(blobs, tenant, blob)
        with pytest.raises(InvalidInput):
            await blobs.delete(tenant, blob)
    with pytest.raises(InvalidInput):
        await blobs.list_ids(TenantId(name))


# --- what only the file system store promises ---------------------------------------------------------------


async def test_files_and_directories_are_for_their_owner_only(tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    await FilesystemBlobs(root).put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*")) if path.is_dir()}
    assert modes == {0o700}
    assert stat.S_IMODE((root / TENANT / BLOB[:2] / BLOB).stat().st_mode) == 0o600


async def test_what_a_crash_left_behind_is_cleared_and_whole_blobs_stay(tmp_path: Path) -> None:
    blobs = FilesystemBlobs(tmp_path)
    await blobs.put(TENANT, BLOB, pieces(b"whole"), max_bytes=MANY)
    (tmp_path / TENANT / BLOB[:2] / f"{SECOND}.x1y2.part").write_bytes(b"half")

    assert await blobs.list_ids(TENANT) == (BLOB,)
    assert await blobs.remove_partial() == 1
    assert await blobs.remove_partial() == 0
    assert await content(blobs, TENANT, BLOB) == b"whole"


def failing(number: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, StorageReadOnly),
        (errno.EACCES, StorageReadOnly),
        (errno.EIO, StorageUnavailable),
    ],
)
async def test_a_failing_disk_is_told_as_a_storage_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[PolymemError]
) -> None:
    blobs = FilesystemBlobs(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(number))
    (tmp_path / TENANT / BLOB[:2]).mkdir(parents=True)

    with pytest.raises(StorageUnavailable) as refused:
        await blobs.put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY)

    assert type(refused.value) is error
    assert files_under(tmp_path) == []


async def test_a_directory_that_cannot_be_made_is_told_as_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", failing(errno.EROFS))
    with pytest.raises(StorageReadOnly):
        await FilesystemBlobs(tmp_path).put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY)

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        await FilesystemBlobs(tmp_path / "file").put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY)


async def test_a_blob_that_cannot_be_opened_is_told_as_a_storage_error(tmp_path: Path) -> None:
    place = tmp_path / TENANT / BLOB[:2] / BLOB
    place.parent.mkdir(parents=True)
    place.symlink_to(place)

    with pytest.raises(StorageUnavailable):
        await content(FilesystemBlobs(tmp_path), TENANT, BLOB)


# --- what only the S3 store promises, and how its storage fails ------------------------------------------------


async def test_blobs_lie_under_prefix_tenant_and_id(bucket: Bucket) -> None:
    await s3_blobs(bucket.endpoint, bucket.name, prefix="a/b").put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY)
    await s3_blobs(bucket.endpoint, bucket.name).put(TENANT, BLOB, pieces(b"y"), max_bytes=MANY)

    assert sorted(bucket.remains()) == [f"{TENANT}/{BLOB}", f"a/b/{TENANT}/{BLOB}"]


async def test_what_others_keep_in_the_bucket_is_not_listed(bucket: Bucket) -> None:
    bucket.fill(f"{TENANT}/deeper/{BLOB}", f"{TENANT}/.hidden", f"{TENANT}-more/{BLOB}", f"{TENANT}/{SECOND}")

    assert await s3_blobs(bucket.endpoint, bucket.name).list_ids(TENANT) == (SECOND,)


async def test_more_blobs_than_a_page_holds_are_all_listed(bucket: Bucket) -> None:
    blobs = s3_blobs(bucket.endpoint, bucket.name)
    made = [BlobId(f"blob-{number:04}") for number in range(1005)]
    bucket.fill(*(f"{TENANT}/{blob}" for blob in made))

    assert await blobs.list_ids(TENANT) == tuple(made)


async def test_a_blob_that_is_replaced_while_it_is_read_is_never_mixed(bucket: Bucket) -> None:
    blobs = s3_blobs(bucket.endpoint, bucket.name)
    await blobs.put(TENANT, BLOB, pieces(bytes(2 << 20)), max_bytes=MANY)
    reading = blobs.open(TENANT, BLOB)
    for _ in range(4):
        await anext(reading)
    await blobs.put(TENANT, BLOB, pieces(b"1" * (2 << 20)), max_bytes=MANY)

    with pytest.raises(StorageUnavailable):
        await anext(reading)


async def test_a_blob_that_is_deleted_while_it_is_read_is_not_found(bucket: Bucket) -> None:
    blobs = s3_blobs(bucket.endpoint, bucket.name)
    await blobs.put(TENANT, BLOB, pieces(bytes(2 << 20)), max_bytes=MANY)
    reading = blobs.open(TENANT, BLOB)
    for _ in range(4):
        await anext(reading)
    await blobs.delete(TENANT, BLOB)

    with pytest.raises(NotFound):
        await anext(reading)


async def every_call(blobs: BlobStore) -> list[PolymemError]:
    """What each method raises."""
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: blobs.put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY),
        lambda: blobs.put(TENANT, BLOB, pieces(bytes(PART_BYTES), b"x"), max_bytes=MANY),
        lambda: blobs.delete(TENANT, BLOB),
        lambda: content(blobs, TENANT, BLOB),
        lambda: blobs.list_ids(TENANT),
    )
    raised = []
    for call in calls:
        with pytest.raises(PolymemError) as refused:
            await call()
        assert SECRET not in "".join(traceback.format_exception(refused.value))
        assert "127.0.0.1" not in refused.value.message
        assert refused.value.__cause__ is not None
        raised.append(refused.value)
    return raised


async def test_a_storage_that_is_away_is_told_in_every_call() -> None:
    blobs = s3_blobs(f"http://127.0.0.1:{closed_port()}", "bucket")

    for error in await every_call(blobs):
        assert type(error) is StorageUnavailable
        assert error.message.endswith("no answer")


async def test_a_storage_that_never_answers_is_given_up_in_time() -> None:
    async with listening(Silent()) as endpoint, asyncio.timeout(60):
        for error in await every_call(s3_blobs(endpoint, "bucket", request_seconds=0.2)):
            assert type(error) is StorageUnavailable


async def test_a_missing_bucket_is_told_in_every_call_and_is_no_missing_blob(s3_endpoint: str) -> None:
    for error in await every_call(s3_blobs(s3_endpoint, "nobody-made-this")):
        assert type(error) is StorageUnavailable
        assert error.message.endswith("there is no such bucket")


@pytest.fixture
def locked_bucket(bucket: Bucket) -> Iterator[Bucket]:
    """A bucket of a server that lets nobody in meanwhile: it knows no key."""
    httpx.post(f"{bucket.endpoint}/moto-api/reset-auth", content=b"0").raise_for_status()
    yield bucket
    httpx.post(f"{bucket.endpoint}/moto-api/reset-auth", content=b"inf").raise_for_status()


async def test_wrong_credentials_are_told_in_every_call(locked_bucket: Bucket) -> None:
    for error in await every_call(s3_blobs(locked_bucket.endpoint, locked_bucket.name)):
        assert type(error) is StorageUnavailable
        assert error.message.endswith("it does not accept the access key (InvalidAccessKeyId)")


def said(code: str) -> str:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body", "writing"),
    [
        (403, said("AccessDenied"), StorageReadOnly),
        (405, "", StorageReadOnly),
        (403, said("SignatureDoesNotMatch"), StorageUnavailable),
        (507, said("XMinioStorageFull"), StorageFull),
        (400, said("QuotaExceeded"), StorageFull),
        (400, "not XML", StorageUnavailable),
    ],
)
async def test_a_refusal_of_the_storage_is_told_for_what_it_is(
    status: int, body: str, writing: type[PolymemError]
) -> None:
    async with listening(Scripted(status, body)) as endpoint:
        errors = await every_call(s3_blobs(endpoint, "bucket"))

    assert [type(error) for error in errors] == [writing] * 3 + [StorageUnavailable] * 2


async def test_a_part_that_is_refused_ends_the_upload() -> None:
    scripted = Scripted(403, said("AccessDenied"), accepted=1)
    async with listening(scripted) as endpoint:
        with pytest.raises(StorageReadOnly):
            await s3_blobs(endpoint, "bucket").put(TENANT, BLOB, pieces(*[bytes(PART_BYTES)] * 5), max_bytes=1 << 30)

    assert f"DELETE /bucket/{TENANT}/{BLOB}?uploadId=u1" in scripted.requests


async def test_a_connection_that_breaks_once_in_a_put_costs_nothing(bucket: Bucket) -> None:
    async with listening(proxy := Proxy(bucket.endpoint, cut_after=PART_BYTES // 2)) as endpoint:
        stored = bytes(range(256)) * (3 * PART_BYTES // 256)
        await s3_blobs(endpoint, bucket.name).put(TENANT, BLOB, pieces(stored), max_bytes=MANY)

    assert proxy.broken == 1
    assert await content(s3_blobs(bucket.endpoint, bucket.name), TENANT, BLOB) == stored


async def test_a_connection_that_keeps_breaking_in_a_put_is_told_and_nothing_is_left(bucket: Bucket) -> None:
    async with listening(Proxy(bucket.endpoint, cut_after=PART_BYTES // 2, cuts=1000)) as endpoint:
        with pytest.raises(StorageUnavailable):
            await s3_blobs(endpoint, bucket.name).put(TENANT, BLOB, pieces(bytes(2 * PART_BYTES)), max_bytes=MANY)

    assert bucket.remains() == []


@pytest.mark.parametrize(("size", "last"), [(4, b"PUT /"), (2 * PART_BYTES, b"<CompleteMultipartUpload")])
async def test_a_put_that_is_cancelled_in_its_last_step_leaves_nothing(bucket: Bucket, size: int, last: bytes) -> None:
    async with listening(proxy := Proxy(bucket.endpoint, held=last)) as endpoint:
        blobs = s3_blobs(endpoint, bucket.name)
        put = asyncio.create_task(blobs.put(TENANT, BLOB, pieces(bytes(size)), max_bytes=MANY))
        await proxy.is_holding.wait()
        put.cancel()
        proxy.released.set()

        with pytest.raises(asyncio.CancelledError):
            await put

    assert bucket.remains() == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bucket",
        "file:///x",
        "s3://",
        "s3:///prefix",
        "s3://Bucket",
        "s3://b/x",
        "s3://bucket/a//b",
        "s3://bucket/../x",
    ],
)
def test_a_place_that_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(SettingsInvalid):
        blobs_at(url, endpoint=None, region=None, access_key_id=None, secret_access_key=None)


@pytest.mark.parametrize(
    "endpoint", ["", "127.0.0.1:9000", "ftp://x", "http://", "http://u:p@x", "http://x:port", "http://x:99999"]
)
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingsInvalid):
        blobs_at("s3://bucket", endpoint=endpoint, region=None, access_key_id=None, secret_access_key=None)


@pytest.mark.parametrize("keys", [("a", None), (None, "b")])
def test_half_a_pair_of_keys_is_refused(keys: tuple[str | None, str | None]) -> None:
    with pytest.raises(SettingsInvalid):
        blobs_at("s3://bucket", endpoint=None, region=None, access_key_id=keys[0], secret_access_key=keys[1])


async def test_a_url_with_a_prefix_and_the_machines_own_keys_opens_the_store(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    blobs = blobs_at(
        f"s3://{bucket.name}/kept/here/",
        endpoint=bucket.endpoint,
        region=None,
        access_key_id=None,
        secret_access_key=None,
    )

    await blobs.put(TENANT, BLOB, pieces(b"x"), max_bytes=MANY)

    assert bucket.remains() == [f"kept/here/{TENANT}/{BLOB}"]
