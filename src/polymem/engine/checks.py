"""The engine's outer limits applied to what callers hand in; the same for every dialect."""

from collections.abc import Mapping
from dataclasses import replace

from polymem.domain.limits import (
    MAX_NAME_CHARACTERS,
    MAX_SEQ,
    MAX_TURN_BYTES,
    MAX_TURNS,
    check_content,
    check_count,
    check_json,
    check_label,
    check_optional_label,
    check_range,
    check_tags,
    in_utc,
)
from polymem.domain.model import MemoryType
from polymem.engine.requests import ImportRequest, MemoryPatch, NewAtom, NewMemory, NewTurn, NewTurns
from polymem.errors import InvalidInput

MAX_CONCEPTS = 256
MAX_CONCEPT_CHARACTERS = 256
MAX_FINGERPRINT_CHARACTERS = 512
MAX_REF_CHARACTERS = 255
MAX_SUPERSEDED = 32


def checked_memory(new: NewMemory) -> NewMemory:
    """The memory within the limits, its time in UTC. Raises `InvalidInput` or `TooLarge`."""
    if new.memory_type is MemoryType.SESSION:
        raise InvalidInput("memory_type", "session memories are made of messages")
    check_content("content", new.content)
    check_tags("tags", new.tags)
    check_json("metadata", new.metadata)
    check_optional_label("source", new.source)
    check_optional_label("agent_id", new.agent_id)
    check_optional_label("session_id", new.session_id)
    if new.created_at is None:
        return new
    return replace(new, created_at=in_utc("created_at", new.created_at))


def check_atom(new: NewAtom) -> None:
    """The atom is within the limits. Raises `InvalidInput` or `TooLarge`."""
    check_content("content", new.content)
    if new.domain:
        check_label("domain", new.domain, max_characters=MAX_NAME_CHARACTERS)
    if len(new.concepts) > MAX_CONCEPTS:
        raise InvalidInput("concepts", f"too many (max {MAX_CONCEPTS})")
    for concept in new.concepts:
        check_label("concepts", concept, max_characters=MAX_CONCEPT_CHARACTERS)
    if new.metadata is not None and not isinstance(new.metadata, Mapping):
        raise InvalidInput("metadata", "must be an object")
    check_json("metadata", new.metadata)
    check_optional_label("external_ref", new.external_ref, max_characters=MAX_REF_CHARACTERS)
    check_optional_label("fingerprint", new.fingerprint, max_characters=MAX_FINGERPRINT_CHARACTERS)
    if len(new.supersedes) > MAX_SUPERSEDED:
        raise InvalidInput("supersedes", f"too many (max {MAX_SUPERSEDED})")
    for memory_id in new.supersedes:
        check_label("supersedes", memory_id)
    check_optional_label("source", new.source)
    check_optional_label("agent_id", new.agent_id)


def check_patch(patch: MemoryPatch) -> None:
    """The patch is within the limits. Raises `InvalidInput` or `TooLarge`."""
    if patch.content is not None:
        check_content("content", patch.content)
    if patch.tags is not None:
        check_tags("tags", patch.tags)
    check_json("metadata", patch.metadata)
    check_optional_label("updated_by", patch.updated_by)


def checked_turns(new: NewTurns) -> NewTurns:
    """The turns within the limits, their times in UTC. Raises `InvalidInput` or `TooLarge`.

    Blank turns pass: they are skipped later, with those that hold nothing but recalled memories.
    """
    check_count("messages", len(new.turns), most=MAX_TURNS)
    check_optional_label("session_id", new.session_id)
    check_optional_label("agent_id", new.agent_id)
    check_optional_label("source", new.source)
    check_tags("tags", new.tags)
    check_json("metadata", new.metadata)
    return replace(new, turns=tuple(_checked_turn(f"messages[{index}]", turn) for index, turn in enumerate(new.turns)))


def _checked_turn(field: str, turn: NewTurn) -> NewTurn:
    check_label(f"{field}.role", turn.role)
    if turn.content.strip():
        check_content(f"{field}.content", turn.content, max_bytes=MAX_TURN_BYTES)
    if turn.seq is not None:
        check_range(f"{field}.seq", turn.seq, least=0, most=MAX_SEQ)
    if turn.created_at is None:
        return turn
    return replace(turn, created_at=in_utc(f"{field}.created_at", turn.created_at))


def check_import(request: ImportRequest) -> None:
    """What is said about a file is within the limits. Raises `InvalidInput`."""
    check_label("file", request.file_name)
    check_optional_label("agent_id", request.agent_id)
    check_optional_label("session_id", request.session_id)
    check_optional_label("source", request.source)
