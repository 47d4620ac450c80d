"""Blobs as files in a directory: `<root>/<tenant>/<first two characters of the id>/<id>`.

A blob appears under its name only when it is whole and on disk: the bytes go to a temporary file beside it, which
is synced and then renamed, and the directory is synced after it. What a crash leaves behind is a temporary file,
which is never listed and which `remove_partial` clears at the next start.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from polymem.domain.model import BlobId, TenantId
from polymem.errors import NotFound, TooLarge
from polymem.storage.blobs.files import PART_SUFFIX, Part, remove_file, storage_error
from polymem.storage.blobs.names import PIECE_BYTES, checked, is_name

_T = TypeVar("_T")


class FilesystemBlobs:
    """The blob port over a directory, which is made when the first blob is stored."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, tenant_id: TenantId, blob_id: BlobId, chunks: AsyncIterator[bytes], *, max_bytes: int) -> int:
        """The blob is durable and whole; its size. After any failure nothing of it is left."""
        place = self._place(tenant_id, blob_id)
        part = await _run(lambda: Part.create(place))
        try:
            size = await _write_all(part.file, chunks, max_bytes)
            await _run(part.publish)
        finally:
            await asyncio.shield(_run(part.close))
        return size

    async def open(self, tenant_id: TenantId, blob_id: BlobId) -> AsyncIterator[bytes]:
        """The blob's bytes in order, in pieces of at most 256 KiB; `NotFound` at the first step when there is none."""
        place = self._place(tenant_id, blob_id)
        try:
            file = await asyncio.to_thread(place.open, "rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound("blob", blob_id) from error
        except OSError as error:
            raise storage_error(error) from error
        try:
            while piece := await _run(lambda: file.read(PIECE_BYTES)):
                yield piece
        finally:
            file.close()

    async def delete(self, tenant_id: TenantId, blob_id: BlobId) -> None:
        """There is no such blob, also after a power cut; deleting what is not there is a no-op."""
        place = self._place(tenant_id, blob_id)
        await _run(lambda: remove_file(place))

    async def list_ids(self, tenant_id: TenantId) -> tuple[BlobId, ...]:
        """The ids of a tenant's blobs, sorted; blobs that are being written are not among them."""
        folder = self._root / checked("tenant_id", tenant_id)
        return await _run(lambda: tuple(BlobId(name) for name in sorted(_names(folder))))

    async def remove_partial(self) -> int:
        """Nothing of a put that a crash cut short is left; how many files were removed.

        Only the one process that owns the directory may call it, before its first put.
        """
        return await _run(lambda: _remove_partial(self._root))

    def _place(self, tenant_id: TenantId, blob_id: BlobId) -> Path:
        name = checked("blob_id", blob_id)
        return self._root / checked("tenant_id", tenant_id) / name[:2] / name


async def _run(step: Callable[[], _T]) -> _T:
    """The step ran on a thread; its operating system errors came back as storage errors."""
    try:
        return await asyncio.to_thread(step)
    except OSError as error:
        raise storage_error(error) from error


async def _write_all(file: BinaryIO, chunks: AsyncIterator[bytes], max_bytes: int) -> int:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge("blob", max_bytes, "bytes")
        await _run(partial(file.write, chunk))
    return size


def _names(folder: Path) -> Iterator[str]:
    for path in folder.glob("*/*"):
        if is_name(path.name) and path.is_file():
            yield path.name


def _remove_partial(root: Path) -> int:
    parts = tuple(root.glob(f"*/*/*{PART_SUFFIX}"))
    for part in parts:
        part.unlink(missing_ok=True)
    return len(parts)
