"""The closed family of errors that cross a layer; nothing here knows of HTTP.

PolymemError
├── InvalidInput         a field breaks its rule; names the field
├── Unauthenticated      no key, or not a key of ours
├── Forbidden            the principal lacks a scope, a role, or a setting says no
├── NotFound             no such thing for this principal
├── Conflict             the state of the thing does not allow the call
├── TooLarge             a body, file or batch beyond its limit
├── RateLimited          too many requests; says when to come back
│   └── DailyLimitReached      the plan's queries of this day are used up
├── QuotaExceeded        the plan's limit on stored things is reached
├── Unavailable          a part of the server cannot serve now
│   ├── InferenceUnavailable   the model cannot answer
│   └── StorageUnavailable     the storage cannot answer now
│       ├── StorageFull        no room to write
│       └── StorageReadOnly    the storage cannot be written
├── StorageDamaged       what is stored does not read back; needs an operator
├── DataDirectoryLocked  another server owns the data directory
└── SettingsInvalid      a setting does not parse or contradicts another
"""

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Every way a call can fail; each dialect maps all of them to a status and a body."""

    INVALID_INPUT = "invalid_input"
    MISSING_KEY = "missing_key"
    INVALID_KEY = "invalid_key"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    VERSION_CONFLICT = "version_conflict"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    QUERIES_EXHAUSTED = "queries_exhausted"
    QUOTA_EXCEEDED = "quota_exceeded"
    UNAVAILABLE = "unavailable"
    INFERENCE_UNAVAILABLE = "inference_unavailable"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    STORAGE_FULL = "storage_full"
    STORAGE_READ_ONLY = "storage_read_only"
    STORAGE_DAMAGED = "storage_damaged"
    DATA_DIRECTORY_LOCKED = "data_directory_locked"
    SETTINGS_INVALID = "settings_invalid"
    INTERNAL = "internal"

    @property
    def is_retryable(self) -> bool:
        """True when the same call may succeed later without being changed."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorCode.RATE_LIMITED,
        ErrorCode.UNAVAILABLE,
        ErrorCode.INFERENCE_UNAVAILABLE,
        ErrorCode.STORAGE_UNAVAILABLE,
        ErrorCode.STORAGE_FULL,
        ErrorCode.STORAGE_READ_ONLY,
    }
)


class PolymemError(Exception):
    """A failure with a code and a message that is safe to show to the caller."""

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(PolymemError):
    """The field `field` (dotted path, as the caller spelled it) breaks the rule in `message`."""

    code = ErrorCode.INVALID_INPUT

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Unauthenticated(PolymemError):
    """The caller is unknown: no key was sent, or none of ours."""

    code = ErrorCode.INVALID_KEY

    def __init__(self, message: str, *, key_is_missing: bool = False) -> None:
        super().__init__(message)
        if key_is_missing:
            self.code = ErrorCode.MISSING_KEY


class Forbidden(PolymemError):
    """The principal is known and may not do this."""

    code = ErrorCode.FORBIDDEN


class NotFound(PolymemError):
    """Nothing of that kind and id exists for this principal; existence elsewhere is not told."""

    code = ErrorCode.NOT_FOUND

    def __init__(self, kind: str, identifier: str) -> None:
        super().__init__(f"{kind} not found")
        self.kind = kind
        self.identifier = identifier


class Conflict(PolymemError):
    """The present state of the thing does not allow the call."""

    code = ErrorCode.CONFLICT


class VersionConflict(Conflict):
    """The caller's guard names version `expected`, the stored version is `current`."""

    code = ErrorCode.VERSION_CONFLICT

    def __init__(self, expected: int, current: int) -> None:
        super().__init__(f"version conflict: expected {expected}, current is {current}")
        self.expected = expected
        self.current = current


class IdempotencyConflict(Conflict):
    """The idempotency key was used before for another request."""

    code = ErrorCode.IDEMPOTENCY_CONFLICT


class TooLarge(PolymemError):
    """A body, file or batch is beyond `limit`, counted in `unit`."""

    code = ErrorCode.TOO_LARGE

    def __init__(self, field: str, limit: int, unit: str) -> None:
        super().__init__(f"{field}: larger than {limit} {unit}")
        self.field = field
        self.limit = limit
        self.unit = unit


class RateLimited(PolymemError):
    """Too many requests; the next one is allowed in `retry_after_seconds`."""

    code = ErrorCode.RATE_LIMITED

    def __init__(self, retry_after_seconds: float, message: str = "rate limit exceeded") -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DailyLimitReached(RateLimited):
    """The plan allows `limit` queries a day, and they are used; the next day begins in `retry_after_seconds`."""

    code = ErrorCode.QUERIES_EXHAUSTED

    def __init__(self, limit: int, retry_after_seconds: float) -> None:
        super().__init__(retry_after_seconds, f"plan limit reached: {limit} queries a day")
        self.limit = limit


class QuotaExceeded(PolymemError):
    """The plan's limit `limit` on `resource` is reached."""

    code = ErrorCode.QUOTA_EXCEEDED

    def __init__(self, resource: str, limit: int) -> None:
        super().__init__(f"plan limit reached: {limit} {resource}")
        self.resource = resource
        self.limit = limit


class Unavailable(PolymemError):
    """A part of the server cannot serve now; nothing was stored by this call."""

    code = ErrorCode.UNAVAILABLE


class InferenceUnavailable(Unavailable):
    """The model is missing, damaged, or did not answer."""

    code = ErrorCode.INFERENCE_UNAVAILABLE


class StorageUnavailable(Unavailable):
    """The storage did not answer in time or is shutting down; nothing was stored."""

    code = ErrorCode.STORAGE_UNAVAILABLE


class StorageFull(StorageUnavailable):
    """There is no room to write; nothing was stored by this call, nothing stored is lost."""

    code = ErrorCode.STORAGE_FULL


class StorageReadOnly(StorageUnavailable):
    """The storage cannot be written; reads still work."""

    code = ErrorCode.STORAGE_READ_ONLY


class StorageDamaged(PolymemError):
    """What is stored does not read back as written; `polymem doctor` says more."""

    code = ErrorCode.STORAGE_DAMAGED


class DataDirectoryLocked(PolymemError):
    """Another running server owns the data directory."""

    code = ErrorCode.DATA_DIRECTORY_LOCKED


class SettingsInvalid(PolymemError):
    """The setting named in the message does not parse or contradicts another."""

    code = ErrorCode.SETTINGS_INVALID
    exit_code: ClassVar[int] = 2
