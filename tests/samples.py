"""Accounts, memories and jobs for tests that do not care what exactly is stored."""

from dataclasses import replace
from datetime import UTC, datetime

from polymem.domain.model import (
    Job,
    JobId,
    JobKind,
    JobState,
    Key,
    KeyId,
    Memory,
    MemoryId,
    MemoryState,
    MemoryType,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
    Tenant,
    TenantId,
    User,
    UserId,
)
from polymem.ports.directory import NewAccount

AT = datetime(2025, 3, 1, 12, tzinfo=UTC)


def account_of(name: str) -> NewAccount:
    """A tenant of that name with its user, personal space and key."""
    tenant_id, user_id, space_id = TenantId(f"tenant-{name}"), UserId(f"user-{name}"), SpaceId(f"space-{name}")
    return NewAccount(
        tenant=Tenant(id=tenant_id, name=name, plan="self-hosted", is_active=True, created_at=AT),
        user=User(id=user_id, tenant_id=tenant_id, name="owner", personal_space_id=space_id, created_at=AT),
        space=Space(id=space_id, kind=SpaceKind.PERSONAL, name="general", is_restricted=False, created_at=AT),
        key=Key(
            id=KeyId(f"key-{name}"),
            tenant_id=tenant_id,
            user_id=user_id,
            name="first",
            prefix="pm_abcd",
            scopes=frozenset(Scope),
            allowed_spaces=None,
            created_at=AT,
            expires_at=None,
            revoked_at=None,
        ),
        key_hash=name.encode(),
    )


def insight(memory_id: str, content: str, *, space_id: SpaceId, user_id: UserId, at: datetime = AT) -> Memory:
    """A memory as a client's first write leaves it, with nothing said but its text."""
    return Memory(
        id=MemoryId(memory_id),
        space_id=space_id,
        content=content,
        memory_type=MemoryType.INSIGHT,
        state=MemoryState.ACTIVE,
        tags=(),
        metadata=None,
        source=None,
        agent_id=None,
        session_id=None,
        turn=None,
        created_by=user_id,
        updated_by=None,
        superseded_by=None,
        derived_from=(),
        version=1,
        revision=1,
        created_at=at,
        updated_at=at,
    )


def memory_of(
    account: NewAccount, name: str, *, revision: int = 1, tags: tuple[str, ...] = ("red",), content: str = ""
) -> Memory:
    """A memory whose id is the name, and its content too unless one is given."""
    plain = insight(name, content or name, space_id=account.space.id, user_id=account.user.id)
    return replace(plain, tags=tags, version=revision, revision=revision)


def job_of(account: NewAccount, name: str, ordering_key: str | None = None, *, queue: str = "default") -> Job:
    """A queued job whose id is the name."""
    return Job(
        id=JobId(name),
        tenant_id=account.tenant.id,
        space_id=account.space.id,
        user_id=account.user.id,
        kind=JobKind.EMBED,
        queue=queue,
        ordering_key=ordering_key,
        blocks_key_when_failed=False,
        sequence=0,
        state=JobState.QUEUED,
        priority=0,
        attempts=0,
        max_attempts=5,
        fence=0,
        payload={},
        result={},
        progress_total=0,
        progress_done=0,
        error=None,
        reference_at=AT,
        run_after_at=AT,
        lease_until_at=None,
        created_at=AT,
        updated_at=AT,
        finished_at=None,
    )
