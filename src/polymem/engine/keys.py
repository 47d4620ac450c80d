"""Keys: made, shown once, stored hashed, checked on every request.

A secret is hashed with plain SHA-256: it holds at least 122 random bits that we drew ourselves, so there is
nothing for a slow hash to protect (it defends guessable passwords), and every request pays for the hash. The
lookup goes by the whole hash, so its timing tells nothing about a stored secret.

What a key opens is remembered until something is committed, for at most `CREDENTIALS_SECONDS`. A change made through
this process counts at once; so does one made by another process (a command beside the server), but for commits within
some milliseconds, which count after that time at the latest.
"""

import hashlib
import string
from collections.abc import Hashable, Iterable
from datetime import datetime

from polymem.domain.limits import MAX_NAME_CHARACTERS, check_label, check_optional_label, in_utc
from polymem.domain.model import (
    Key,
    KeyId,
    Principal,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
    Tenant,
    TenantId,
    User,
    UserId,
)
from polymem.engine.requests import NewSecret
from polymem.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from polymem.ports.directory import Credentials, NewAccount
from polymem.ports.runtime import Clock, Ids
from polymem.ports.storage import Storage

DEFAULT_PLAN = "self-hosted"
SECRET_PREFIX = "pm_"  # noqa: S105 - the public beginning of every secret, not a secret
ALL_SCOPES = frozenset(Scope)
MIN_SECRET_CHARACTERS = 16
MAX_SECRET_CHARACTERS = 256
CREDENTIALS_SECONDS = 1.0
MAX_REMEMBERED = 10_000
_SHOWN_CHARACTERS = 8
_SECRET_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_.~+/=")


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def is_plausible_secret(secret: str) -> bool:
    """False for texts that cannot be one of our secrets; these never reach the storage."""
    return MIN_SECRET_CHARACTERS <= len(secret) <= MAX_SECRET_CHARACTERS and _SECRET_ALPHABET.issuperset(secret)


class Keys:
    """The keys of all tenants."""

    def __init__(self, storage: Storage, clock: Clock, ids: Ids) -> None:
        self._directory = storage.directory
        self._clock = clock
        self._ids = ids
        self._remembered: dict[bytes, tuple[float, Hashable, Credentials]] = {}

    def forget(self) -> None:
        """What keys open is read anew from now on; for whoever changed a tenant, a user or a plan."""
        # A read that is under way keeps the old dictionary, and so cannot bring back what it read before the change.
        self._remembered = {}

    async def authenticate(self, secret: str, *, agent_id: str | None = None) -> Principal:
        """Who holds this secret.

        Raises `Unauthenticated` for a secret that is not, or no longer, one of ours, always with the same
        words; `Forbidden` when its tenant is inactive; `InvalidInput` for an agent id beyond its limit.
        """
        check_optional_label("agent_id", agent_id)
        found = await self._credentials(hash_secret(secret)) if is_plausible_secret(secret) else None
        if found is None:
            raise Unauthenticated("invalid API key")
        key = found.key
        is_expired = key.expires_at is not None and key.expires_at <= self._clock.now()
        if key.revoked_at is not None or is_expired:
            raise Unauthenticated("invalid API key")
        if not found.tenant.is_active:
            raise Forbidden("tenant is inactive")
        return Principal(
            tenant_id=key.tenant_id,
            user_id=key.user_id,
            key_id=key.id,
            personal_space_id=found.user.personal_space_id,
            scopes=key.scopes,
            allowed_spaces=key.allowed_spaces,
            plan=found.plan,
            agent_id=agent_id,
        )

    async def _credentials(self, key_hash: bytes) -> Credentials | None:
        """What the key of this hash opens, or opened a moment ago; unknown keys are looked up each time."""
        remembered, now, mark = self._remembered, self._clock.monotonic(), self._directory.mark()
        known = remembered.get(key_hash)
        if known is not None and known[1] == mark and now - known[0] < CREDENTIALS_SECONDS:
            return known[2]
        found = await self._directory.find_credentials(key_hash)
        if found is None:
            return None
        remembered.pop(key_hash, None)
        remembered[key_hash] = (now, mark, found)
        if len(remembered) > MAX_REMEMBERED:
            del remembered[next(iter(remembered))]
        return found

    async def provision(self, *, name: str) -> NewSecret:
        """A new tenant with one user and one key of all scopes; the secret is a random UUID, as mem9 shows it."""
        secret = self._ids.new_uuid4()
        account = self._account(name=name, plan=DEFAULT_PLAN, secret=secret)
        await self._directory.create_account(account)
        return _told(account, secret)

    async def create_tenant(self, *, name: str, plan: str) -> NewSecret:
        """A new tenant on this plan with one user and one key of all scopes. Raises `NotFound` for an unknown plan."""
        if plan not in {known.name for known in await self._directory.list_plans()}:
            raise NotFound("plan", plan)
        secret = self._new_secret()
        account = self._account(name=name, plan=plan, secret=secret)
        await self._directory.create_account(account)
        return _told(account, secret)

    async def first_start(self, *, secret: str | None = None) -> NewSecret | None:
        """The first tenant with its key, or None when any tenant exists; of several racing processes one gets it.

        A given `secret` becomes that key's; it must look like one.
        """
        if secret is not None and not is_plausible_secret(secret):
            raise InvalidInput(
                "secret",
                f"must be {MIN_SECRET_CHARACTERS} to {MAX_SECRET_CHARACTERS} letters, digits or any of -_.~+/=",
            )
        told = self._new_secret() if secret is None else secret
        account = self._account(name="default", plan=DEFAULT_PLAN, secret=told)
        is_ours = await self._directory.create_account(account, only_if_empty=True)
        return _told(account, told) if is_ours else None

    async def create(
        self,
        tenant_id: TenantId | None,
        *,
        user_id: UserId | None = None,
        name: str,
        scopes: Iterable[Scope],
        expires_at: datetime | None = None,
        allowed_spaces: frozenset[SpaceId] | None = None,
    ) -> NewSecret:
        """A new key of a user; None takes the oldest tenant, and the tenant's oldest user.

        Raises `NotFound` for an unknown tenant or user, `InvalidInput` for a key that could do nothing.
        """
        check_label("name", name, max_characters=MAX_NAME_CHARACTERS)
        granted = frozenset(scopes)
        now = self._clock.now()
        until = None if expires_at is None else in_utc("expires_at", expires_at)
        if not granted:
            raise InvalidInput("scopes", "must name at least one scope")
        if until is not None and until <= now:
            raise InvalidInput("expires_at", "must be in the future")
        tenant = await self._tenant(tenant_id)
        user = await self._user(tenant, user_id)
        secret = self._new_secret()
        key = self._key(user, secret, name=name, scopes=granted, now=now, expires_at=until, spaces=allowed_spaces)
        await self._directory.add_key(key, hash_secret(secret))
        return NewSecret(key=key, secret=secret, tenant=tenant, user=user)

    async def revoke(self, key_id: KeyId) -> Key:
        """The key opens nothing any more. Raises `NotFound` for an unknown key."""
        key = await self._directory.revoke_key(key_id, now=self._clock.now())
        self.forget()
        if key is None:
            raise NotFound("key", key_id)
        return key

    async def list(self, tenant_id: TenantId | None) -> tuple[Key, ...]:
        """All keys of one tenant, or of all, oldest first."""
        return await self._directory.list_keys(tenant_id)

    async def _tenant(self, tenant_id: TenantId | None) -> Tenant:
        for tenant in await self._directory.list_tenants():
            if tenant_id is None or tenant.id == tenant_id:
                return tenant
        raise NotFound("tenant", tenant_id or "any")

    async def _user(self, tenant: Tenant, user_id: UserId | None) -> User:
        for user in await self._directory.list_users(tenant.id):
            if user_id is None or user.id == user_id:
                return user
        raise NotFound("user", user_id or "any")

    def _new_secret(self) -> str:
        return SECRET_PREFIX + self._ids.new_secret()

    def _account(self, *, name: str, plan: str, secret: str) -> NewAccount:
        check_label("name", name, max_characters=MAX_NAME_CHARACTERS)
        now = self._clock.now()
        tenant = Tenant(id=TenantId(self._ids.new_id()), name=name, plan=plan, is_active=True, created_at=now)
        user, space = new_user(self._ids, tenant.id, name="owner", now=now)
        key = self._key(user, secret, name="first key", scopes=ALL_SCOPES, now=now)
        return NewAccount(tenant=tenant, user=user, space=space, key=key, key_hash=hash_secret(secret))

    def _key(
        self,
        user: User,
        secret: str,
        *,
        name: str,
        scopes: frozenset[Scope],
        now: datetime,
        expires_at: datetime | None = None,
        spaces: frozenset[SpaceId] | None = None,
    ) -> Key:
        return Key(
            id=KeyId(self._ids.new_id()),
            tenant_id=user.tenant_id,
            user_id=user.id,
            name=name,
            prefix=secret[:_SHOWN_CHARACTERS],
            scopes=scopes,
            allowed_spaces=spaces,
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
        )


def new_user(ids: Ids, tenant_id: TenantId, *, name: str, now: datetime) -> tuple[User, Space]:
    """A user with its personal space, not stored yet."""
    space = Space(id=SpaceId(ids.new_id()), kind=SpaceKind.PERSONAL, name="general", is_restricted=True, created_at=now)
    user = User(id=UserId(ids.new_id()), tenant_id=tenant_id, name=name, personal_space_id=space.id, created_at=now)
    return user, space


def _told(account: NewAccount, secret: str) -> NewSecret:
    return NewSecret(key=account.key, secret=secret, tenant=account.tenant, user=account.user)
