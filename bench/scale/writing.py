"""Single writes and deletes through the engine, the same texts in both storages, in random order."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.scale.sides import Dealer, Side, TimedEmbedder, Timings, call_of, timings
from polymem.domain.model import MemoryId
from polymem.engine.requests import NewMemory, NewSecret


@dataclass(frozen=True, slots=True)
class Writes:
    """Of each side: whole writes, the same without the model's time, and the deletes of what was written."""

    whole: dict[str, Timings]
    stored: dict[str, Timings]
    deleted: dict[str, Timings]


async def write_pairs(
    sides: Sequence[Side], accounts: Sequence[NewSecret], texts: Sequence[str], model: TimedEmbedder, *, seed: int
) -> Writes:
    """Every text was written to each side and found its way to the disk, and then was deleted again."""
    found = Writes(timings(sides), timings(sides), timings(sides))
    dealer = Dealer(sides, seed)
    written: list[tuple[Side, NewSecret, MemoryId]] = []
    for number, text in enumerate(texts):
        account = accounts[number % len(accounts)]
        for each in dealer.deal():
            model.seconds = 0.0
            with found.whole[each.name].taken():
                told = await each.write.memory(call_of(account), NewMemory(content=text))
            found.stored[each.name].seconds.append(found.whole[each.name].seconds[-1] - model.seconds)
            written.append((each, account, told.memory.id))
    for each, account, memory_id in written:
        with found.deleted[each.name].taken():
            await each.write.delete(call_of(account), memory_id)
    return found
