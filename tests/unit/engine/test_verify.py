"""The index says what the stored texts say, and `verify_terms` notices when it does not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from polymem.domain.model import MemoryId, ModelIdentity
from polymem.domain.traits import Traits, encode_traits
from polymem.engine.indexing import bare_entry
from polymem.engine.requests import MemoryPatch, NewMemory, NewTurn, NewTurns
from polymem.engine.verify import verify_terms
from polymem.ports.changes import UpdateMemory
from polymem.ports.search import Evidence
from polymem.ports.storage import Finding, FindingKind


def well(compared: int) -> Finding:
    message = "index entries hold the terms and traits of their texts"
    return Finding(kind=FindingKind.TERMS, is_ok=True, compared=compared, message=message)


async def test_whatever_was_written_is_indexed_as_its_text_says(world: Any) -> None:
    await world.engine.keys.provision(name="another tenant, with nothing in it")
    for number in range(203):
        await world.engine.write.memory(world.call(), NewMemory(content=f"note {number}", tags=("tagged",)))
    kept = (await world.engine.write.memory(world.call(), NewMemory(content="before"))).memory
    await world.engine.write.update(world.call(), kept.id, MemoryPatch(content="after"))
    gone = (await world.engine.write.memory(world.call(), NewMemory(content="gone"))).memory
    await world.engine.write.delete(world.call(), gone.id)
    turns = (NewTurn(role="Amy", content="We met in Lisbon on 3 May"),)
    await world.engine.ingest.messages(world.call(), NewTurns(turns=turns))
    assert await verify_terms(world.storage) == well(205)


@pytest.mark.parametrize(
    "change",
    [
        {"terms": ("something", "else")},
        {"terms": ("the", "truth", "1", "march", "2024")},
        {"terms": ("the", "truth", "1", "march", "2025", "more")},
        {"traits": encode_traits(Traits(speaker="Ada"))},
        {"traits": b""},
    ],
)
async def test_an_entry_with_other_terms_or_traits_than_its_text_is_named(world: Any, change: Any) -> None:
    memory = (await world.engine.write.memory(world.call(), NewMemory(content="the truth"))).memory
    wrong = UpdateMemory(
        memory=replace(memory, revision=memory.revision + 1),
        index=replace(bare_entry(memory), **change),
        expected_revision=memory.revision,
        replaced_by=None,
        reason="test",
        keeps_history=False,
    )
    await world.store.commit([wrong], now=world.clock.now())
    message = f"1 index entries hold other terms or traits than their text has, such as {memory.id}"
    assert await verify_terms(world.storage) == Finding(
        kind=FindingKind.TERMS, is_ok=False, compared=1, message=message
    )


class LateStorage:
    """A storage whose index answers the first question as it stood before the newest commit."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._is_late = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def search(self, tenant_id: Any) -> Any:
        self._index = self._storage.search(tenant_id)
        return self

    async def evidence(
        self, ids: Sequence[MemoryId], model: ModelIdentity, terms: Sequence[str]
    ) -> dict[MemoryId, Evidence]:
        if self._is_late:
            self._is_late = False
            return {}
        found: dict[MemoryId, Evidence] = await self._index.evidence(ids, model, terms)
        return found


async def test_an_entry_that_was_written_while_it_was_looked_at_is_not_accused(world: Any) -> None:
    await world.engine.write.memory(world.call(), NewMemory(content="just now"))
    late: Any = LateStorage(world.storage)
    assert await verify_terms(late) == well(1)
