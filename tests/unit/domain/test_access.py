"""Scopes, roles and kinds of spaces: the whole cross product."""

from datetime import UTC, datetime
from itertools import product

import pytest

from polymem.domain.access import SCOPE_OF, Action, has_scope, is_allowed, is_allowed_in_personal, role_in
from polymem.domain.model import (
    KeyId,
    Membership,
    Plan,
    Principal,
    Role,
    Scope,
    Space,
    SpaceId,
    SpaceKind,
    TenantId,
    UserId,
)

OWN = SpaceId("own")
OTHER = SpaceId("other")
PLAN = Plan(name="p", requests_per_minute=1, burst=1, max_memories=None)
ROLES: tuple[Role | None, ...] = (None, *Role)

READING = {Action.READ}
CONTENT = {Action.READ, Action.WRITE, Action.DELETE, Action.ORGANIZE}
EVERYTHING = set(Action)
BY_ROLE = {
    None: set[Action](),
    Role.VIEWER: READING,
    Role.CONTRIBUTOR: CONTENT,
    Role.ADMIN: EVERYTHING,
    Role.OWNER: EVERYTHING,
}


def principal(scopes: frozenset[Scope] = frozenset(Scope), allowed: frozenset[SpaceId] | None = None) -> Principal:
    return Principal(
        tenant_id=TenantId("t"),
        user_id=UserId("u"),
        key_id=KeyId("k"),
        personal_space_id=OWN,
        scopes=scopes,
        allowed_spaces=allowed,
        plan=PLAN,
    )


def space(kind: SpaceKind, *, is_restricted: bool = False, space_id: SpaceId = OTHER) -> Space:
    return Space(
        id=space_id, kind=kind, name="s", is_restricted=is_restricted, created_at=datetime(2025, 1, 1, tzinfo=UTC)
    )


def membership(role: Role | None) -> Membership | None:
    return None if role is None else Membership(space_id=OTHER, user_id=UserId("u"), role=role)


def expected(kind: SpaceKind, role: Role | None, *, is_restricted: bool) -> set[Action]:
    """What the table in the design says, spelled out once more."""
    if kind is SpaceKind.PERSONAL:
        return set()
    if role is None and kind is SpaceKind.DOMAIN and not is_restricted:
        return CONTENT
    return BY_ROLE[role]


@pytest.mark.parametrize(
    ("kind", "role", "is_restricted", "scope"), list(product(SpaceKind, ROLES, (False, True), Scope))
)
def test_a_key_of_one_scope_does_in_a_space_what_its_role_and_that_scope_allow(
    *, kind: SpaceKind, role: Role | None, is_restricted: bool, scope: Scope
) -> None:
    allowed = expected(kind, role, is_restricted=is_restricted)
    for action in Action:
        found = is_allowed(
            principal(frozenset({scope})), space(kind, is_restricted=is_restricted), membership(role), action
        )
        assert found == (action in allowed and SCOPE_OF[action] is scope), action


@pytest.mark.parametrize("role", ROLES)
def test_the_own_personal_space_is_owned_whatever_a_membership_says(role: Role | None) -> None:
    own = space(SpaceKind.PERSONAL, is_restricted=True, space_id=OWN)
    assert role_in(principal(), own, membership(role)) is Role.OWNER
    assert all(is_allowed(principal(), own, membership(role), action) for action in Action)


@pytest.mark.parametrize(
    ("allowed", "scope", "action"),
    list(
        product(
            (None, frozenset[SpaceId](), frozenset({OWN}), frozenset({OTHER}), frozenset({OWN, OTHER})), Scope, Action
        )
    ),
)
def test_the_fast_path_for_the_personal_space_says_what_the_table_says(
    allowed: frozenset[SpaceId] | None, scope: Scope, action: Action
) -> None:
    who = principal(frozenset({scope}), allowed)
    own = space(SpaceKind.PERSONAL, space_id=OWN)
    assert is_allowed_in_personal(who, action) == is_allowed(who, own, None, action)


@pytest.mark.parametrize("action", Action)
def test_allowed_spaces_narrow_even_an_owner(action: Action) -> None:
    hub = space(SpaceKind.HUB)
    owner = membership(Role.OWNER)
    assert not is_allowed(principal(allowed=frozenset({OWN})), hub, owner, action)
    assert is_allowed(principal(allowed=frozenset({OTHER})), hub, owner, action)


def test_no_scope_implies_another() -> None:
    for scope, action in product(Scope, Action):
        assert has_scope(principal(frozenset({scope})), action) == (SCOPE_OF[action] is scope)


def test_every_action_has_its_own_scope() -> None:
    assert sorted(SCOPE_OF[action] for action in Action) == sorted(Scope)
