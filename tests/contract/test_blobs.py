"""The contract of the blob port, over every implementation."""

import errno
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from polymem.domain.model import BlobId, TenantId
from polymem.errors import (
    InvalidInput,
    NotFound,
    PolymemError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    TooLarge,
)
from polymem.ports.blobs import BlobStore
from polymem.storage.blobs.filesystem import FilesystemBlobs

TENANT = TenantId("0199aaaa-0000-7000-8000-000000000001")
OTHER = TenantId("0199aaaa-0000-7000-8000-000000000002")
BLOB = BlobId("0199bbbb-0000-7000-8000-000000000001")
SECOND = BlobId("0199bbbc-0000-7000-8000-000000000002")
MANY = 1 << 24


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return FilesystemBlobs(tmp_path / "blobs")


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
    stored = bytes(range(256)) * 4096
    await blobs.put(TENANT, BLOB, pieces(stored), max_bytes=MANY)

    read = [piece async for piece in blobs.open(TENANT, BLOB)]

    assert b"".join(read) == stored
    assert max(map(len, read)) <= 256 * 1024


async def test_a_blob_of_exactly_the_limit_fits(blobs: BlobStore) -> None:
    assert await blobs.put(TENANT, BLOB, pieces(b"12", b"34"), max_bytes=4) == 4


async def test_a_blob_beyond_the_limit_is_refused_and_nothing_of_it_is_left(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(TooLarge) as refused:
        await blobs.put(TENANT, BLOB, pieces(b"12", b"345"), max_bytes=4)

    assert (refused.value.limit, refused.value.unit) == (4, "bytes")
    assert await blobs.list_ids(TENANT) == ()
    assert files_under(tmp_path) == []


async def test_after_a_broken_upload_nothing_of_it_is_left(blobs: BlobStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(TENANT, BLOB, broken(), max_bytes=MANY)

    assert await blobs.list_ids(TENANT) == ()
    assert files_under(tmp_path) == []


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
