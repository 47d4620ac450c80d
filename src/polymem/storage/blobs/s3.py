"""Blobs in S3-compatible storage: `<prefix>/<tenant>/<blob>` in one bucket.

A blob is uploaded in parts (one request when it is small) and appears under its name only when the last part is
there. A put that fails gives its parts up; what a crash or a dead connection leaves behind is an unfinished upload,
which is never listed and which a lifecycle rule of the bucket should end (AbortIncompleteMultipartUpload).

A blob is read by ranges, each request of its own: a slow reader holds no connection open, and a broken one costs one
range. Every request has a time limit and a few retries.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from obstore import delete_async, get_async, head_async, open_writer_async
from obstore import list as list_objects
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from polymem.domain.model import BlobId, TenantId
from polymem.errors import (
    NotFound,
    SettingsInvalid,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    TooLarge,
)
from polymem.storage.blobs.names import PIECE_BYTES, checked, is_name

if TYPE_CHECKING:  # the package's types are not importable when it runs
    from obstore import AsyncWritableFile, GetOptions, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

REQUEST_SECONDS: Final = 30.0
# The least that S3 takes for a part: of a put, three of them at most are in memory.
PART_BYTES: Final = 5 << 20
PARTS_AT_ONCE: Final = 2
WINDOW_BYTES: Final = 4 * PIECE_BYTES

_CONNECT_SECONDS = 5.0
_RETRIES = 3
_FIRST_PAUSE = timedelta(milliseconds=100)
_LONGEST_PAUSE = timedelta(seconds=2)

_SCHEME = "s3"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STEP = re.compile(r"[0-9a-zA-Z_-][0-9a-zA-Z._-]{0,127}")

_CODE = re.compile(r"<Code>([0-9A-Za-z.]{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = "NoSuchBucket"
_FULL_STATUS = "507"
_FULL = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientCapacity"})
_BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
_REFUSED = frozenset({"AccessDenied", "AllAccessDisabled", "MethodNotAllowed"})
_REFUSED_STATUSES = frozenset({"401", "403", "405"})


class S3Blobs:
    """The blob port over one bucket; it asks the storage for nothing before the first call."""

    def __init__(self, store: S3Store, prefix: str = "") -> None:
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def connect(
        cls,
        *,
        bucket: str,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> Self:
        """The blobs below `prefix` in the bucket, over plain HTTP only where the endpoint says so.

        None for the endpoint is Amazon's own, None for region or keys what the machine's environment and role say.
        A request is given up after `request_seconds`, its retries after as long again. Raises `SettingsInvalid`.
        """
        if (access_key_id is None) != (secret_access_key is None):
            raise SettingsInvalid("blob storage: set both the access key id and the secret access key, or neither")
        if endpoint is not None and not _is_endpoint(endpoint):
            raise SettingsInvalid("blob storage: the endpoint is not like https://host or http://host:port")
        options: ClientConfig = {
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, request_seconds)),
            "timeout": timedelta(seconds=request_seconds),
        }
        retries: RetryConfig = {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=request_seconds),
            "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE},
        }
        store = S3Store(
            bucket,
            config=_place(endpoint, region),
            client_options=options,
            retry_config=retries,
            credential_provider=_Credentials.of(access_key_id, secret_access_key),
        )
        return cls(store, prefix)

    async def put(self, tenant_id: TenantId, blob_id: BlobId, chunks: AsyncIterator[bytes], *, max_bytes: int) -> int:
        """The blob is durable and whole; its size. After a failure nothing stands under its name.

        When the storage fails at the very end it may have stored the blob all the same: it is then deleted again,
        together with what an earlier put may have left under the id. Ids are random and put once.
        """
        path = self._path(tenant_id, blob_id)
        writer = open_writer_async(self._store, path, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        try:
            size = await _write_all(writer, chunks, max_bytes)
        except BaseException:
            await asyncio.shield(_give_up(writer))
            raise
        publishing = asyncio.create_task(_close(writer))
        try:
            await asyncio.shield(publishing)
        except BaseException:
            await asyncio.shield(self._take_back(publishing, path))
            raise
        return size

    async def open(self, tenant_id: TenantId, blob_id: BlobId) -> AsyncIterator[bytes]:
        """The blob's bytes in order, in pieces of at most 256 KiB; `NotFound` at the first step when there is none."""
        path = self._path(tenant_id, blob_id)
        absent = NotFound("blob", blob_id)
        found = await self._head(path, absent)
        for start in range(0, found["size"], WINDOW_BYTES):
            window = (start, min(start + WINDOW_BYTES, found["size"]))
            asked: GetOptions = {"range": window, "if_match": found["e_tag"]}
            with _told("read a blob", absent=absent):
                result = await get_async(self._store, path, options=asked)
                read = bytes(await result.bytes_async())
            for at in range(0, len(read), PIECE_BYTES):
                yield read[at : at + PIECE_BYTES]

    async def delete(self, tenant_id: TenantId, blob_id: BlobId) -> None:
        """There is no such blob; deleting what is not there is a no-op."""
        await self._delete(self._path(tenant_id, blob_id))

    async def list_ids(self, tenant_id: TenantId) -> tuple[BlobId, ...]:
        """The ids of a tenant's blobs, sorted; unfinished uploads are not among them."""
        folder = f"{self._prefix}{checked('tenant_id', tenant_id)}/"
        names: list[str] = []
        with _told("list blobs"):
            async for page in list_objects(self._store, folder):
                names += [entry["path"].removeprefix(folder) for entry in page]
        return tuple(BlobId(name) for name in sorted(names) if is_name(name))

    def _path(self, tenant_id: TenantId, blob_id: BlobId) -> str:
        return f"{self._prefix}{checked('tenant_id', tenant_id)}/{checked('blob_id', blob_id)}"

    async def _head(self, path: str, absent: NotFound) -> "ObjectMeta":
        with _told("read a blob", absent=absent):
            try:
                return await head_async(self._store, path)
            except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError):
                # An answer without a body does not tell a missing blob from a missing bucket, nor who is refused.
                return (await get_async(self._store, path)).meta

    async def _delete(self, path: str) -> None:
        with contextlib.suppress(NotFound), _told("delete a blob", is_write=True, absent=NotFound("blob", path)):
            await delete_async(self._store, path)

    async def _take_back(self, publishing: "asyncio.Task[None]", path: str) -> None:
        """The put has ended, and the blob is gone if the storage can be reached."""
        await asyncio.wait({publishing})
        publishing.exception()
        with contextlib.suppress(StorageUnavailable):
            await self._delete(path)


def blobs_at(
    url: str,
    *,
    endpoint: str | None,
    region: str | None,
    access_key_id: str | None,
    secret_access_key: str | None,
) -> S3Blobs:
    """The blob store that `s3://bucket/prefix` names (the prefix may be missing). Raises `SettingsInvalid`."""
    scheme, separator, place = url.partition("://")
    bucket, _, prefix = place.rstrip("/").partition("/")
    steps = prefix.split("/") if prefix else []
    if scheme != _SCHEME or not separator or _BUCKET.fullmatch(bucket) is None:
        raise SettingsInvalid(
            "setting blob_url: not like s3://bucket or s3://bucket/prefix, with a bucket's name of 3 to 63 characters"
        )
    if any(_STEP.fullmatch(step) is None for step in steps):
        raise SettingsInvalid("blob storage: a prefix is words of letters, digits and -_. with slashes between them")
    return S3Blobs.connect(
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        region=region,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
    )


class _Credentials:
    """Keys that never expire, and that no `repr` shows."""

    def __init__(self, access_key_id: str, secret_access_key: str) -> None:
        self._access_key_id = access_key_id
        self._secret_access_key = secret_access_key

    @classmethod
    def of(cls, access_key_id: str | None, secret_access_key: str | None) -> "_Credentials | None":
        """The keys, or None when the machine's own are to be used."""
        if access_key_id is None or secret_access_key is None:
            return None
        return cls(access_key_id, secret_access_key)

    def __call__(self) -> "S3Credential":
        return {
            "access_key_id": self._access_key_id,
            "secret_access_key": self._secret_access_key,
            "token": None,
            "expires_at": None,
        }


def _place(endpoint: str | None, region: str | None) -> "S3Config":
    """What was said of where the storage is."""
    place: S3Config = {"disable_bulk_delete": True}
    if endpoint is not None:
        place["endpoint"] = endpoint
    if region is not None:
        place["region"] = region
    return place


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.username or parts.password or parts.query or parts.fragment)
        )
    except ValueError:
        return False


async def _write_all(writer: "AsyncWritableFile", chunks: AsyncIterator[bytes], max_bytes: int) -> int:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge("blob", max_bytes, "bytes")
        if chunk:
            with _told("write a blob", is_write=True):
                await writer.write(chunk)
    return size


async def _close(writer: "AsyncWritableFile") -> None:
    with _told("write a blob", is_write=True):
        await writer.close()


async def _give_up(writer: "AsyncWritableFile") -> None:
    """The parts that were sent are given up, if the storage can be reached."""
    with contextlib.suppress(BaseError, OSError):
        # Leaving it with an error is how the package is told to end the upload instead of finishing it.
        await writer.__aexit__(StorageUnavailable, StorageUnavailable("given up"), None)


# --- errors ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told(step: str, *, is_write: bool = False, absent: NotFound | None = None) -> Iterator[None]:
    """Errors of the package come out as storage errors; their text, which names addresses, only as the cause.

    `absent` comes out instead when the bucket is there and what was asked for is not.
    """
    try:
        yield
    except FileNotFoundError as error:
        if absent is not None and _first(_CODE, str(error)) != _NO_BUCKET:
            raise absent from error
        raise _storage_error(step, error, is_write=is_write) from error
    except (BaseError, OSError) as error:
        raise _storage_error(step, error, is_write=is_write) from error


def _storage_error(step: str, error: BaseError | OSError, *, is_write: bool) -> StorageUnavailable:
    text = str(error)
    code, status = _first(_CODE, text), _first(_STATUS, text)
    if is_write and (code in _FULL or status == _FULL_STATUS):
        return StorageFull(f"blob storage cannot {step}: no room")
    if code == _NO_BUCKET:
        return StorageUnavailable(f"blob storage cannot {step}: there is no such bucket")
    if code in _BAD_CREDENTIALS:
        return StorageUnavailable(f"blob storage cannot {step}: it does not accept the access key ({code})")
    if code in _REFUSED or status in _REFUSED_STATUSES:
        refused = f"blob storage cannot {step}: it refuses ({code or status})"
        return StorageReadOnly(refused) if is_write else StorageUnavailable(refused)
    reason = f"error {code or status}" if code or status else "no answer"
    return StorageUnavailable(f"blob storage cannot {step}: {reason}")


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""
