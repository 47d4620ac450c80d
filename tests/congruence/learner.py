"""Random changes of what is learned, beside those of what is said, the same for the same seed."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

from polymem.domain.concepts import concept_keys, external_ref_identity
from polymem.domain.model import JsonValue, Memory, MemoryId, MemoryRole, MemoryState, Space, SpaceId, SpaceKind
from polymem.domain.query import Comparison, MemoryFilter, MetadataCondition
from polymem.ports.changes import AddSpace, Associate, Change, MoveValence, PutMemory, SetStanding, Supersede
from samples import AT
from writer import ACCOUNT, Writer

CONCEPTS = ("Red", "green", "blue", "New York", "new  york.", "ZEBRA", "ant", "*bee*", "cat", "\x10", "ünder")
KEYS = concept_keys(CONCEPTS)
SECOND = Space(id=SpaceId("second"), kind=SpaceKind.DOMAIN, name="second", is_restricted=False, created_at=AT)
SPACES = frozenset({ACCOUNT.space.id, SECOND.id})
AUTHORS = (None, "bot", "crow")
FIELDS = ("a", "b", "0", "", "\x10k", 'quo"te')
SCALARS: tuple[JsonValue, ...] = (
    None, True, False, 0, 1, 1.0, -0.0, 0.1, 1e-7, 2**53, 2**53 + 1, 2.0**53, 10**30, -1, "", "a", "ab", "1", "true",
    "ÄB", 'a"b', "\\u0000", "\x10", "\x100", "\u2028",
)  # fmt: skip


class Learner(Writer):
    """Random changes of one tenant with two spaces, whose memories have all that can be learned of them."""

    def begin(self) -> list[Change]:
        """The second space is there."""
        return [AddSpace(space=SECOND, members=())]

    def value(self, depth: int = 0) -> JsonValue:
        """A JSON value of a few levels."""
        kind = self.random.random()
        if depth > 2 or kind < 0.5:
            return self.random.choice(SCALARS)
        if kind < 0.7:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return self.object(depth)

    def object(self, depth: int = 0) -> dict[str, JsonValue]:
        """A JSON object of a few pairs."""
        return {key: self.value(depth + 1) for key in self.random.sample(FIELDS, self.random.randrange(4))}

    def memory(self, name: str) -> Memory:
        """A memory of a text that others may have, with whatever else it may have."""
        choice = self.random.choice
        return replace(
            super().memory(name),
            content=f"{choice(('The', 'the', ' the '))} text {self.random.randrange(40)}",
            space_id=choice(sorted(SPACES)),
            state=choice((MemoryState.ACTIVE, MemoryState.ACTIVE, MemoryState.PAUSED)),
            metadata=choice((None, self.object(), self.object())),
            agent_id=choice(AUTHORS),
            role=choice(list(MemoryRole)),
            concepts=tuple(self.random.sample(CONCEPTS, self.random.randrange(5))),
            importance=self.random.random(),
            fingerprint=choice((None, None, f"print {self.random.randrange(9)}")),
            created_at=AT + timedelta(seconds=self.random.randrange(60)),
        )

    def put(self) -> Change:
        """A new memory, perhaps one that must not repeat another, perhaps one that a reference names."""
        self.made += 1
        name = f"m{self.made:05}"
        self.revisions[name] = 1
        memory, reference = self.memory(name), f"ref {self.random.randrange(50)}"
        change = PutMemory(memory=memory, index=self.entry(), unless_repeated=self.random.random() < 0.3)
        if self.random.random() < 0.7:
            return change
        named = replace(memory, external_ref=reference)
        return replace(change, memory=named, identity=external_ref_identity(reference))

    def lessons(self, stored: Mapping[MemoryId, Memory]) -> list[Change]:
        """What is learned of memories that are there as these."""
        return list(self._lessons(stored))

    def _lessons(self, stored: Mapping[MemoryId, Memory]) -> Iterator[Change]:
        random, ids = self.random, sorted(stored)
        pairs = [frozenset((random.choice(KEYS), random.choice(KEYS)) for _ in range(8)) for _ in range(4)]
        for some in pairs:
            yield Associate(
                space_id=random.choice(sorted(SPACES)),
                pairs=some,
                rate=random.random(),
                at=AT + timedelta(seconds=random.randrange(60)),
                outcome=random.choice((None, random.uniform(-1, 1))),
                valence_rate=random.random(),
                because_of=random.choice((None, random.choice(ids), MemoryId("nobody"))),
            )
        for _ in range(4):
            yield MoveValence(
                memory_ids=frozenset(random.sample(ids, 5)),
                spaces=frozenset({random.choice(sorted(SPACES))}),
                outcome=random.uniform(-1, 1),
                rate=random.random(),
            )
        replaced = tuple(random.sample(ids, 3))
        yield Supersede(memory_ids=replaced, by=random.choice((random.choice(ids), MemoryId("nobody"))), spaces=SPACES)
        standing = [each for each in random.sample(ids, 6) if each not in replaced]
        for space_id in sorted(SPACES):
            yield SetStanding(
                space_id=space_id,
                revisions=tuple(
                    (each, stored[each].revision) for each in standing if stored[each].space_id == space_id
                ),
                state=random.choice((MemoryState.ACTIVE, MemoryState.ARCHIVED)),
                role=random.choice(list(MemoryRole)),
                superseded_by=random.choice((None, random.choice(ids))),
            )

    def condition(self, stored: Mapping[MemoryId, Memory]) -> MetadataCondition:
        """A condition that some of these memories may meet: often made of what one of them has."""
        path: list[str] = []
        value: JsonValue = self.random.choice([memory.metadata for memory in stored.values()])
        while isinstance(value, Mapping) and value and self.random.random() < 0.9:
            key = self.random.choice(sorted(value))
            path.append(key)
            value = value[key]
        comparison = self.random.choice(list(Comparison))
        if self.random.random() < 0.2:
            value = self.value()
        if comparison is Comparison.IN:
            value = [self.value(), value]
        elif comparison is Comparison.CONTAINS and isinstance(value, list) and value:
            value = self.random.choice(value)
        elif comparison is Comparison.CONTAINS and isinstance(value, str):
            value = value[self.random.randrange(2) :]
        return MetadataCondition(tuple(path), comparison, value)

    def filters(self, stored: Mapping[MemoryId, Memory]) -> list[MemoryFilter]:
        """Filters of every kind that only the memory's own row can answer."""
        every = MemoryFilter(spaces=SPACES)
        author = self.random.choice(("bot", "crow", ACCOUNT.user.id, "nobody"))
        one, two, three = (self.condition(stored) for _ in range(3))
        return [
            every,
            replace(every, except_author=author),
            replace(every, metadata=(one,)),
            replace(every, metadata=(two,), states=None),
            replace(every, metadata=(two, three), except_author=author, tags=("blue",)),
        ]
