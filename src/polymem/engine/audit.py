"""The audit log: what each commit of a client's change leaves behind."""

from datetime import datetime
from enum import StrEnum

from polymem.engine.queueing import Author
from polymem.ports.changes import Audit


class AuditAction(StrEnum):
    """What was done; the target of an entry is the id named here."""

    CREATE_MEMORY = "memory.create"  # target: the memory
    UPDATE_MEMORY = "memory.update"  # target: the memory
    DELETE_MEMORY = "memory.delete"  # target: the memory
    INGEST_TURNS = "turns.ingest"  # target: the session
    GIVE_FEEDBACK = "feedback.give"  # target: the first memory, and how many there were
    START_IMPORT = "import.start"  # target: the job
    CONSOLIDATE = "domain.consolidate"  # target: the job
    RESTORE_SOURCES = "memory.restore"  # target: the prototype


def audit(author: Author, action: AuditAction, target: str, *, at: datetime) -> Audit:
    """The entry for one thing done."""
    return Audit(
        at=at,
        user_id=author.user_id,
        key_id=author.key_id,
        action=action.value,
        target=target,
        request_id=author.request_id,
    )
