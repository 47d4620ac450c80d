"""The turns of a history as memories, with ids that tell their places."""

from datetime import UTC, datetime

from bench.recall.dataset import LabTurn
from polymem.domain.model import (
    ContentType,
    Memory,
    MemoryId,
    MemoryState,
    MemoryType,
    SpaceId,
    TenantId,
    Turn,
    UserId,
)

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
DEPTH = 50


def memory(number: int, position: int, turn: LabTurn) -> Memory:
    """The memory that holds a turn; its id tells the position."""
    moment = turn.said_at or EPOCH
    return Memory(
        id=MemoryId(lab_uuid(3, number, position)),
        space_id=space_id(number),
        content=turn.text,
        memory_type=MemoryType.SESSION,
        state=MemoryState.ACTIVE,
        tags=(),
        metadata=None,
        source=None,
        agent_id=None,
        session_id=turn.session_id,
        turn=Turn(role=turn.speaker, seq=turn.seq, content_type=ContentType.TEXT),
        created_by=user_id(number),
        updated_by=None,
        superseded_by=None,
        derived_from=(),
        version=0,
        revision=1,
        created_at=moment,
        updated_at=moment,
    )


def position_of(memory_id: MemoryId) -> int:
    """The position in the history of the turn that a memory holds."""
    return int(memory_id[-8:], 16)


def lab_uuid(kind: int, number: int, position: int = 0) -> str:
    """A well-formed id of something of history `number`."""
    return f"018f0000-000{kind}-7000-8000-{number:04x}{position:08x}"


def tenant_id(number: int) -> TenantId:
    """The tenant that holds history `number`."""
    return TenantId(lab_uuid(0, number))


def user_id(number: int) -> UserId:
    """The user who said history `number`."""
    return UserId(lab_uuid(1, number))


def space_id(number: int) -> SpaceId:
    """The personal space that holds history `number`."""
    return SpaceId(lab_uuid(2, number))
