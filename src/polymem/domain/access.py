"""Who may do what in which space: one table for every dialect, pure.

Three things narrow each other, and the narrowest wins: the scopes of the key, the spaces the key is allowed,
and the role of its user in the space. No scope implies another.
"""

from collections.abc import Mapping
from enum import StrEnum

from polymem.domain.model import Membership, Principal, Role, Scope, Space, SpaceKind


class Action(StrEnum):
    """What a principal does in a space.

    `organize` makes and moves things inside it (topics, labels), `define_types` changes its schema,
    `manage` changes the space itself: its name, members and existence.
    """

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    ORGANIZE = "organize"
    DEFINE_TYPES = "define_types"
    MANAGE = "manage"


SCOPE_OF: Mapping[Action, Scope] = {
    Action.READ: Scope.READ,
    Action.WRITE: Scope.WRITE,
    Action.DELETE: Scope.DELETE,
    Action.ORGANIZE: Scope.ORGANIZE,
    Action.DEFINE_TYPES: Scope.TYPES,
    Action.MANAGE: Scope.ADMIN,
}

_EVERYTHING = frozenset(Action)
_CONTENT = frozenset({Action.READ, Action.WRITE, Action.DELETE, Action.ORGANIZE})

ACTIONS_OF: Mapping[Role, frozenset[Action]] = {
    Role.OWNER: _EVERYTHING,
    Role.ADMIN: _EVERYTHING,
    Role.CONTRIBUTOR: _CONTENT,
    Role.VIEWER: frozenset({Action.READ}),
}


def has_scope(principal: Principal, action: Action) -> bool:
    """True when the key may do this in some space."""
    return SCOPE_OF[action] in principal.scopes


def role_in(principal: Principal, space: Space, membership: Membership | None) -> Role | None:
    """The role of the principal's user in a space of its tenant, or None when it has nothing to do there.

    A personal space has its user as owner and knows no one else. In a domain that is not restricted whoever
    is no member is a contributor; a role that was given counts as given, also when it is the lower one.
    Hubs and instances are for their members.
    """
    if space.kind is SpaceKind.PERSONAL:
        return Role.OWNER if space.id == principal.personal_space_id else None
    if membership is not None:
        return membership.role
    if space.kind is SpaceKind.DOMAIN and not space.is_restricted:
        return Role.CONTRIBUTOR
    return None


def is_allowed(principal: Principal, space: Space, membership: Membership | None, action: Action) -> bool:
    """True when the principal may do this in this space."""
    if not has_scope(principal, action):
        return False
    if principal.allowed_spaces is not None and space.id not in principal.allowed_spaces:
        return False
    role = role_in(principal, space, membership)
    return role is not None and action in ACTIONS_OF[role]


def is_allowed_in_personal(principal: Principal, action: Action) -> bool:
    """True when the principal may do this in its own personal space; what `is_allowed` says, with no space read."""
    is_open = principal.allowed_spaces is None or principal.personal_space_id in principal.allowed_spaces
    return is_open and has_scope(principal, action)
