"""Rows as domain values and back: the columns that every storage has, and how each value is written in them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from polymem.domain.concepts import concept_keys, content_key
from polymem.domain.model import (
    Association,
    ContentType,
    Job,
    JobId,
    JobKind,
    JobState,
    JsonValue,
    Key,
    KeyId,
    Membership,
    Memory,
    MemoryId,
    MemoryRole,
    MemoryState,
    MemoryType,
    MemoryVersion,
    Plan,
    Role,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
    Tenant,
    TenantId,
    Turn,
    User,
    UserId,
)
from polymem.ports.changes import Audit
from polymem.ports.directory import Credentials

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# One row as the driver gives it: its columns are typed by the schema, which is STRICT.
Row = tuple[Any, ...]


def columns(names: tuple[str, ...], alias: str = "") -> str:
    """The names as a SELECT list."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(prefix + name for name in names)


def insert_into(table: str, names: tuple[str, ...], *, mark: str = "?") -> str:
    """The statement that inserts one row of these columns; `mark` stands where the driver puts a value."""
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))})"


def microseconds(moment: datetime) -> int:
    """The stored form of a time: whole microseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(stored: int) -> datetime:
    """The time that was stored as whole microseconds."""
    return _EPOCH + timedelta(microseconds=stored)


def optional_moment(stored: int | None) -> datetime | None:
    """The time that was stored, if one was."""
    return None if stored is None else moment(stored)


def optional_microseconds(at: datetime | None) -> int | None:
    """The stored form of a time, if there is one."""
    return None if at is None else microseconds(at)


def to_json(value: JsonValue) -> str:
    """The one text of a JSON value: keys sorted, no spaces. Raises `ValueError` for NaN and infinities."""
    return _ENCODER.encode(value)


def _as_plain(value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        return dict(value)
    message = f"{type(value).__name__} is no JSON value"
    raise TypeError(message)


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=_as_plain
)


# --- memories --------------------------------------------------------------------------------------------

MEMORY_COLUMNS: Final = (
    "memory_id",
    "space_id",
    "memory_type",
    "state",
    "source",
    "agent_id",
    "session_id",
    "turn_role",
    "turn_seq",
    "content_type",
    "created_by",
    "updated_by",
    "superseded_by",
    "derived_from",
    "version",
    "revision",
    "created_at",
    "updated_at",
    "role",
    "importance",
    "valence",
    "external_ref",
    "fingerprint",
    "content_key",
    "supersedes",
    "concepts",
    "tags",
    "metadata",
    "content",
)

# What a client's change writes: what was learned of the memory stays.
UPDATED_COLUMNS: Final = tuple(name for name in MEMORY_COLUMNS if name != "valence")
_VALENCE: Final = MEMORY_COLUMNS.index("valence")


def updated_row(memory: Memory) -> Row:
    """The memory's values in the order of `UPDATED_COLUMNS`."""
    row = memory_row(memory)
    return row[:_VALENCE] + row[_VALENCE + 1 :]


def memory_row(memory: Memory) -> Row:
    """The memory's values in the order of `MEMORY_COLUMNS`."""
    turn = memory.turn
    return (
        memory.id,
        memory.space_id,
        memory.memory_type.value,
        memory.state.value,
        memory.source,
        memory.agent_id,
        memory.session_id,
        None if turn is None else turn.role,
        None if turn is None else turn.seq,
        None if turn is None else turn.content_type.value,
        memory.created_by,
        memory.updated_by,
        memory.superseded_by,
        to_json(memory.derived_from),
        memory.version,
        memory.revision,
        microseconds(memory.created_at),
        microseconds(memory.updated_at),
        memory.role.value,
        memory.importance,
        memory.valence,
        memory.external_ref,
        memory.fingerprint,
        content_key(memory.content),
        to_json(memory.supersedes),
        to_json(memory.concepts),
        to_json(memory.tags),
        None if memory.metadata is None else to_json(memory.metadata),
        memory.content,
    )


def memory_from_row(row: Row) -> Memory:
    """The memory of a row of `MEMORY_COLUMNS`."""
    metadata = row[27]
    return Memory(
        id=MemoryId(row[0]),
        space_id=SpaceId(row[1]),
        memory_type=MemoryType(row[2]),
        state=MemoryState(row[3]),
        source=row[4],
        agent_id=row[5],
        session_id=row[6],
        turn=None if row[7] is None else Turn(role=row[7], seq=row[8], content_type=ContentType(row[9])),
        created_by=UserId(row[10]),
        updated_by=row[11],
        superseded_by=None if row[12] is None else MemoryId(row[12]),
        derived_from=_texts(row[13]),
        version=row[14],
        revision=row[15],
        created_at=moment(row[16]),
        updated_at=moment(row[17]),
        role=MemoryRole(row[18]),
        importance=row[19],
        valence=row[20],
        external_ref=row[21],
        fingerprint=row[22],
        supersedes=_texts(row[24]),
        concepts=_texts(row[25]),
        tags=_texts(row[26]),
        metadata=None if metadata is None else json.loads(metadata),
        content=row[28],
    )


def _texts(stored: str) -> tuple[Any, ...]:
    """The texts of a JSON list; most are empty, and then need no parser."""
    return () if stored == "[]" else tuple(json.loads(stored))


def version_body(row: Row) -> str:
    """A row of `MEMORY_COLUMNS` as the body of an entry in `memory_versions`."""
    return to_json(dict(zip(MEMORY_COLUMNS, row, strict=True)))


def memory_from_body(body: str) -> Memory:
    """The memory that `version_body` wrote down."""
    values = json.loads(body)
    return memory_from_row(tuple(values[name] for name in MEMORY_COLUMNS))


def version_from_row(row: Row) -> MemoryVersion:
    """The earlier state of a row of body, replaced_at, replaced_by and reason."""
    body, replaced_at, replaced_by, reason = row
    return MemoryVersion(
        memory=memory_from_body(body), replaced_at=moment(replaced_at), replaced_by=replaced_by, reason=reason
    )


CONCEPT_COLUMNS: Final = ("tenant_id", "space_id", "concept", "memory_id")


def concept_rows(tenant_id: str, memory: Memory) -> list[Row]:
    """The rows of `CONCEPT_COLUMNS` by which the memory is found: one for each key of its concepts."""
    return [(tenant_id, memory.space_id, key, memory.id) for key in concept_keys(memory.concepts)]


ASSOCIATION_COLUMNS: Final = ("space_id", "source", "target", "weight", "valence", "count", "updated_at")


def association_from_row(row: Row) -> Association:
    """The association of a row of `ASSOCIATION_COLUMNS`."""
    return Association(
        space_id=SpaceId(row[0]),
        source=row[1],
        target=row[2],
        weight=row[3],
        valence=row[4],
        count=row[5],
        updated_at=moment(row[6]),
    )


# --- tenants, users, keys, plans, spaces -----------------------------------------------------------------

PLAN_COLUMNS: Final = ("name", "requests_per_minute", "burst", "max_memories", "queries_per_day")
TENANT_COLUMNS: Final = ("tenant_id", "name", "plan", "is_active", "created_at")
USER_COLUMNS: Final = ("tenant_id", "user_id", "name", "personal_space_id", "created_at")
SPACE_COLUMNS: Final = ("space_id", "kind", "name", "is_restricted", "created_at")
KEY_COLUMNS: Final = (
    "key_id",
    "tenant_id",
    "user_id",
    "name",
    "prefix",
    "scopes",
    "allowed_spaces",
    "created_at",
    "expires_at",
    "revoked_at",
)


def plan_row(plan: Plan) -> Row:
    """The plan's values in the order of `PLAN_COLUMNS`."""
    return (plan.name, plan.requests_per_minute, plan.burst, plan.max_memories, plan.queries_per_day)


def plan_from_row(row: Row) -> Plan:
    """The plan of a row of `PLAN_COLUMNS`."""
    return Plan(name=row[0], requests_per_minute=row[1], burst=row[2], max_memories=row[3], queries_per_day=row[4])


def tenant_row(tenant: Tenant) -> Row:
    """The tenant's values in the order of `TENANT_COLUMNS`."""
    return (tenant.id, tenant.name, tenant.plan, tenant.is_active, microseconds(tenant.created_at))


def tenant_from_row(row: Row) -> Tenant:
    """The tenant of a row of `TENANT_COLUMNS`."""
    return Tenant(id=TenantId(row[0]), name=row[1], plan=row[2], is_active=bool(row[3]), created_at=moment(row[4]))


def user_row(user: User) -> Row:
    """The user's values in the order of `USER_COLUMNS`."""
    return (user.tenant_id, user.id, user.name, user.personal_space_id, microseconds(user.created_at))


def user_from_row(row: Row) -> User:
    """The user of a row of `USER_COLUMNS`."""
    return User(
        tenant_id=TenantId(row[0]),
        id=UserId(row[1]),
        name=row[2],
        personal_space_id=SpaceId(row[3]),
        created_at=moment(row[4]),
    )


def space_row(space: Space) -> Row:
    """The space's values in the order of `SPACE_COLUMNS`."""
    return (space.id, space.kind.value, space.name, space.is_restricted, microseconds(space.created_at))


def space_from_row(row: Row) -> Space:
    """The space of a row of `SPACE_COLUMNS`."""
    return Space(
        id=SpaceId(row[0]),
        kind=SpaceKind(row[1]),
        name=row[2],
        is_restricted=bool(row[3]),
        created_at=moment(row[4]),
    )


def membership_of(space_id: str, user_id: UserId, role: str | None) -> Membership | None:
    """The user's place in a space, None without a role."""
    return None if role is None else Membership(space_id=SpaceId(space_id), user_id=user_id, role=Role(role))


def key_row(key: Key) -> Row:
    """The key's values in the order of `KEY_COLUMNS`."""
    return (
        key.id,
        key.tenant_id,
        key.user_id,
        key.name,
        key.prefix,
        to_json(sorted(key.scopes)),
        None if key.allowed_spaces is None else to_json(sorted(key.allowed_spaces)),
        microseconds(key.created_at),
        optional_microseconds(key.expires_at),
        optional_microseconds(key.revoked_at),
    )


def key_from_row(row: Row) -> Key:
    """The key of a row of `KEY_COLUMNS`."""
    return Key(
        id=KeyId(row[0]),
        tenant_id=TenantId(row[1]),
        user_id=UserId(row[2]),
        name=row[3],
        prefix=row[4],
        scopes=frozenset(Scope(scope) for scope in json.loads(row[5])),
        allowed_spaces=None if row[6] is None else frozenset(SpaceId(space) for space in json.loads(row[6])),
        created_at=moment(row[7]),
        expires_at=optional_moment(row[8]),
        revoked_at=optional_moment(row[9]),
    )


AUDIT_COLUMNS: Final = ("at", "user_id", "key_id", "action", "target", "request_id")


def audit_row(entry: Audit) -> Row:
    """The entry's values in the order of `AUDIT_COLUMNS`."""
    return (microseconds(entry.at), entry.user_id, entry.key_id, entry.action, entry.target, entry.request_id)


_TO_TENANT = len(KEY_COLUMNS)
_TO_USER = _TO_TENANT + len(TENANT_COLUMNS)
_TO_PLAN = _TO_USER + len(USER_COLUMNS)

# What a key `k` opens: its own columns, then those of tenant, user and plan.
CREDENTIALS: Final = (
    f"SELECT {columns(KEY_COLUMNS, 'k')}, {columns(TENANT_COLUMNS, 't')},"
    f" {columns(USER_COLUMNS, 'u')}, {columns(PLAN_COLUMNS, 'p')} FROM keys AS k"
    " JOIN tenants AS t ON t.tenant_id = k.tenant_id"
    " JOIN users AS u ON u.tenant_id = k.tenant_id AND u.user_id = k.user_id"
    " JOIN plans AS p ON p.name = t.plan"
)


def credentials_from_row(row: Row) -> Credentials:
    """The credentials of a row of `CREDENTIALS`."""
    return Credentials(
        key=key_from_row(row[:_TO_TENANT]),
        tenant=tenant_from_row(row[_TO_TENANT:_TO_USER]),
        user=user_from_row(row[_TO_USER:_TO_PLAN]),
        plan=plan_from_row(row[_TO_PLAN:]),
    )


# --- jobs ------------------------------------------------------------------------------------------------

JOB_COLUMNS: Final = (
    "tenant_id",
    "job_id",
    "space_id",
    "user_id",
    "kind",
    "queue",
    "ordering_key",
    "blocks_key_when_failed",
    "sequence",
    "state",
    "priority",
    "attempts",
    "max_attempts",
    "fence",
    "payload",
    "result",
    "progress_total",
    "progress_done",
    "error",
    "reference_at",
    "run_after_at",
    "lease_until_at",
    "created_at",
    "updated_at",
    "finished_at",
)


def job_row(job: Job) -> Row:
    """The job's values in the order of `JOB_COLUMNS`."""
    return (
        job.tenant_id,
        job.id,
        job.space_id,
        job.user_id,
        job.kind.value,
        job.queue,
        job.ordering_key,
        job.blocks_key_when_failed,
        job.sequence,
        job.state.value,
        job.priority,
        job.attempts,
        job.max_attempts,
        job.fence,
        to_json(job.payload),
        to_json(job.result),
        job.progress_total,
        job.progress_done,
        job.error,
        microseconds(job.reference_at),
        microseconds(job.run_after_at),
        optional_microseconds(job.lease_until_at),
        microseconds(job.created_at),
        microseconds(job.updated_at),
        optional_microseconds(job.finished_at),
    )


def job_from_row(row: Row) -> Job:
    """The job of a row of `JOB_COLUMNS`."""
    return Job(
        tenant_id=TenantId(row[0]),
        id=JobId(row[1]),
        space_id=SpaceId(row[2]),
        user_id=UserId(row[3]),
        kind=JobKind(row[4]),
        queue=row[5],
        ordering_key=row[6],
        blocks_key_when_failed=bool(row[7]),
        sequence=row[8],
        state=JobState(row[9]),
        priority=row[10],
        attempts=row[11],
        max_attempts=row[12],
        fence=row[13],
        payload=json.loads(row[14]),
        result=json.loads(row[15]),
        progress_total=row[16],
        progress_done=row[17],
        error=row[18],
        reference_at=moment(row[19]),
        run_after_at=moment(row[20]),
        lease_until_at=optional_moment(row[21]),
        created_at=moment(row[22]),
        updated_at=moment(row[23]),
        finished_at=optional_moment(row[24]),
    )
