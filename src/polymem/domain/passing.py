"""Whether one memory passes a filter: what the storages answer in their indexes, said once in plain words."""

from datetime import datetime

from polymem.domain.conditions import holds
from polymem.domain.model import Memory
from polymem.domain.query import MemoryFilter


def passes(where: MemoryFilter, memory: Memory) -> bool:
    """True when every given condition of the filter holds of the memory."""
    return _is_of_a_kind(where, memory) and _is_in_time(where, memory) and _is_by_whom(where, memory)


def _is_of_a_kind(where: MemoryFilter, memory: Memory) -> bool:
    sets = (
        (where.spaces, memory.space_id),
        (where.states, memory.state),
        (where.memory_types, memory.memory_type),
        (where.session_ids, memory.session_id),
    )
    if any(wanted is not None and value not in wanted for wanted, value in sets):
        return False
    has_tags = set(where.tags) <= set(memory.tags)
    return has_tags and all(holds(condition, memory.metadata) for condition in where.metadata)


def _is_in_time(where: MemoryFilter, memory: Memory) -> bool:
    return _is_between(memory.created_at, where.created_from_at, where.created_until_at) and _is_between(
        memory.updated_at, where.updated_from_at, where.updated_until_at
    )


def _is_between(at: datetime, first: datetime | None, end: datetime | None) -> bool:
    return (first is None or at >= first) and (end is None or at < end)


def _is_by_whom(where: MemoryFilter, memory: Memory) -> bool:
    if where.except_author is not None and where.except_author in (memory.agent_id, memory.created_by):
        return False
    return where.source in (None, memory.source) and where.agent_id in (None, memory.agent_id)
