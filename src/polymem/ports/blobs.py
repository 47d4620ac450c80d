"""The blob port: files that belong to a tenant, too large for a row."""

from collections.abc import AsyncIterator
from typing import Protocol

from polymem.domain.model import BlobId, TenantId


class BlobStore(Protocol):
    """Durable files under random names. All methods may raise the storage errors."""

    async def put(self, tenant_id: TenantId, blob_id: BlobId, chunks: AsyncIterator[bytes], *, max_bytes: int) -> int:
        """The blob is durable and whole; its size.

        Raises `TooLarge` beyond `max_bytes`, and then, as after any failure, nothing of it is left.
        """
        ...

    def open(self, tenant_id: TenantId, blob_id: BlobId) -> AsyncIterator[bytes]:
        """The blob's bytes in order, in pieces of at most 256 KiB.

        Raises `NotFound` at the first step when there is none.
        """
        ...

    async def delete(self, tenant_id: TenantId, blob_id: BlobId) -> None:
        """There is no such blob; deleting what is not there is a no-op."""
        ...

    async def list_ids(self, tenant_id: TenantId) -> tuple[BlobId, ...]:
        """The ids of a tenant's blobs, sorted."""
        ...
