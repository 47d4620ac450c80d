"""Which memories become one, which stay, and that deciding twice decides nothing new."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from polymem.domain import consolidation
from polymem.domain.consolidation import (
    Atom,
    Consolidation,
    Floats,
    Nearest,
    Part,
    consolidate,
    mean_direction,
    nearest_of,
)

_AT = datetime(2025, 1, 1, tzinfo=UTC)
SOUP = "I would like to cook a tomato soup for dinner on the weekend"


def _atoms(texts: Sequence[str], parts: Sequence[Part] = ()) -> list[Atom]:
    every = [*parts, *[Part.MEMBER] * (len(texts) - len(parts))]
    return [
        Atom(
            id=f"{number:04}",
            content=text,
            created_at=_AT + timedelta(seconds=number),
            part=part,
            sources=2 if part is Part.PROTOTYPE else 0,
        )
        for number, (text, part) in enumerate(zip(texts, every, strict=True))
    ]


def _rows(directions: Sequence[int], *, aside: float = 0.1, width: int = 64) -> Floats:
    """Unit rows in these directions, each turned a little another way."""
    rows = np.zeros((len(directions), width), dtype=np.float32)
    for number, direction in enumerate(directions):
        rows[number, direction] = 1.0
        rows[number] += np.random.default_rng(number).standard_normal(width).astype(np.float32) * aside / width**0.5
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _run(atoms: Sequence[Atom], rows: Floats) -> Consolidation:
    return consolidate(atoms, rows, nearest_of(rows, 0, len(rows)))


def _again(atoms: Sequence[Atom], rows: Floats, first: Consolidation) -> Consolidation:
    """What a run over what the first one left decides."""
    heads = {group.head: len(group.members) for group in first.groups}
    gone = {member for group in first.groups for member in group.members} - set(heads)
    left = [number for number in range(len(atoms)) if number not in gone]
    after = [
        replace(atoms[each], part=Part.PROTOTYPE, sources=atoms[each].sources + heads[each])
        if each in heads
        else atoms[each]
        for each in left
    ]
    return _run(after, rows[left])


def test_repeats_form_a_group_around_the_text_nearest_to_all() -> None:
    rows = _rows([0, 0, 0, 1], aside=0.0)
    rows[1, 2] = 0.2
    rows[2, 2] = -0.2
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    atoms = _atoms([SOUP, SOUP + ", please", "Well, " + SOUP, "The chain of my bike rattles"])
    found = _run(atoms, rows)
    assert [(group.head, group.members) for group in found.groups] == [(0, (0, 1, 2))]
    assert found.singletons == frozenset()


def test_of_equally_near_texts_the_oldest_stands_for_the_others() -> None:
    atoms = _atoms([SOUP, SOUP, SOUP])
    atoms[0], atoms[2] = (
        replace(atoms[0], created_at=atoms[2].created_at),
        replace(atoms[2], created_at=atoms[0].created_at),
    )
    (group,) = _run(atoms, _rows([0, 0, 0], aside=0.0)).groups
    assert (group.head, group.members) == (2, (2, 1, 0))


def test_of_two_texts_the_oldest_stands_for_both_whatever_the_last_bits_of_their_vectors() -> None:
    rows = _rows([0, 0])
    for scale in (1.0 - 3e-7, 1.0 + 3e-7):
        nearly = rows * np.array([[1.0], [scale]], dtype=np.float32)
        (group,) = _run(_atoms([SOUP, f"{SOUP}!"]), nearly).groups
        assert group.head == 0


def test_texts_near_in_meaning_with_other_words_stay_apart() -> None:
    atoms = _atoms([SOUP, "Which wine goes with salmon, and how long does it take in the oven?"])
    assert _run(atoms, _rows([0, 0])).groups == ()


@pytest.mark.parametrize(
    ("some", "others"),
    [
        ("The staging server listens on port 8080", "The staging server listens on port 9090"),
        ("We deploy the new release on Monday morning", "We deploy the new release on Thursday morning"),
        (
            "The backup of the database is enabled on that host",
            "The backup of the database is not enabled on that host",
        ),
    ],
)
def test_a_text_with_news_stays(some: str, others: str) -> None:
    assert _run(_atoms([some, others]), _rows([0, 0])).groups == ()


def test_a_name_that_a_sentence_of_both_texts_holds_is_no_news() -> None:
    one = "Lena Novak is our new dentist. I like how calm the practice is, said Lena."
    other = "Lena Novak is our new dentist. I like how calm the practice is, said she."
    assert len(_run(_atoms([one, other]), _rows([0, 0])).groups) == 1


def test_what_is_protected_neither_merges_nor_counts_as_distinctive_only() -> None:
    found = _run(_atoms([SOUP, SOUP, SOUP], [Part.PROTECTED]), _rows([0, 0, 0]))
    assert [group.members for group in found.groups] == [(1, 2)]
    assert found.singletons == {0}


def test_a_repeat_joins_the_prototype_and_prototypes_never_merge() -> None:
    atoms = _atoms([SOUP, SOUP, SOUP], [Part.PROTOTYPE, Part.PROTOTYPE])
    (group,) = _run(atoms, _rows([0, 0, 0], aside=0.0)).groups
    assert (group.head, group.members) == (0, (2,))


def test_a_prototype_stands_for_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidation, "MOST_SOURCES", 3)
    atoms, rows = _atoms([SOUP] * 5, [Part.PROTOTYPE]), _rows([0] * 5, aside=0.0)
    found = _run(atoms, rows)
    assert [len(group.members) for group in found.groups] == [1, 3]
    assert _again(atoms, rows, found).groups == ()


def test_a_full_prototype_leaves_a_repeat_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidation, "MOST_SOURCES", 2)
    assert _run(_atoms([SOUP] * 2, [Part.PROTOTYPE]), _rows([0, 0])).groups == ()


def test_a_piece_too_large_is_taken_in_parts_and_still_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidation, "MOST_IN_PIECE", 4)
    atoms, rows = _atoms([SOUP] * 11), _rows([0] * 11)
    found = _run(atoms, rows)
    assert sorted(member for group in found.groups for member in group.members) == list(range(11))
    assert _again(atoms, rows, found).groups == ()


def test_clusters_that_say_the_same_become_one() -> None:
    rows = _rows([0, 0, 0, 0, 0, 0], aside=0.0)
    for number in range(3, 6):
        rows[number, 1] = 0.3
    rows += np.linspace(0, 0.01, rows.size, dtype=np.float32).reshape(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    (group,) = _run(_atoms([SOUP] * 6), rows.astype(np.float32)).groups
    assert group.members == (0, 1, 2, 3, 4, 5)


def test_a_chain_of_small_steps_merges_only_what_agrees_with_one_text() -> None:
    steps = [0.0, 0.5, 1.0, 1.5]
    rows = np.zeros((4, 8), dtype=np.float32)
    rows[:, 0], rows[:, 1] = np.cos(steps), np.sin(steps)
    found = _run(_atoms([SOUP] * 4), rows)
    for group in found.groups:
        assert all(float(rows[group.head] @ rows[member]) >= 0.68 for member in group.members)
    assert _again(_atoms([SOUP] * 4), rows, found).groups == ()


def test_repeats_that_no_density_cluster_holds_still_pair_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidation, "_clusters", lambda *_: [])
    port = "The staging server listens on port {} and the cat sleeps on the sofa"
    found = _run(_atoms([port.format(8080), SOUP, SOUP + ".", port.format(8080)]), _rows([0, 0, 0, 0]))
    assert [group.members for group in found.groups] == [(0, 3), (1, 2)]


def test_a_medoid_that_agrees_with_nobody_leaves_the_others_to_each_other() -> None:
    port = "The staging server listens on port {} and the cat sleeps on the sofa"
    rows = _rows([0, 0, 0, 0], aside=0.0)
    rows[1, 1], rows[2, 1] = 0.3, -0.3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = _run(_atoms([port.format(9090), port.format(8080), port.format(8080) + "!", port.format(9090)]), rows)
    assert sorted(group.members for group in found.groups) == [(0, 3), (1, 2)]


def test_more_repeats_than_are_listed_become_one() -> None:
    atoms, rows = _atoms([SOUP] * 60), _rows([0] * 60)
    found = _run(atoms, rows)
    assert [len(group.members) for group in found.groups] == [60]
    assert _again(atoms, rows, found).groups == ()


def test_a_second_run_finds_nothing_to_do_among_many() -> None:
    chance = np.random.default_rng(3)
    words = ("soup", "bike", "chain", "oven", "salmon", "wine", "roses", "paint", "train", "ticket", "letter")
    texts = [" ".join(chance.choice(words, size=9)) for _ in range(150)]
    texts += [text + " indeed" for text in texts[:80]]
    directions = [number % 40 for number in range(150)] + [number % 40 for number in range(80)]
    atoms, rows = _atoms(texts), _rows(directions, aside=0.4)
    found = _run(atoms, rows)
    again = _again(atoms, rows, found)
    assert len(found.groups) > 20
    assert again.groups == ()
    heads = {group.head for group in found.groups}
    gone = {member for group in found.groups for member in group.members} - heads
    left = [number for number in range(len(atoms)) if number not in gone]
    assert {left[number] for number in again.singletons} == found.singletons


def test_what_lies_far_from_everything_is_a_singleton() -> None:
    texts = [f"Note {word} about the garden" for word in "abcdefghijklmnop"] + ["Quarks have colour charge"]
    rows = _rows([0] * 16 + [5], aside=0.9)
    assert _run(_atoms(texts), rows).singletons == {16}


def test_few_memories_and_memories_all_alike_have_no_singleton() -> None:
    assert _run(_atoms(["a b c", "d e f", "g h i"]), _rows([0, 1, 2])).singletons == frozenset()
    different = [f"{number} {number * 7919} things" for number in range(12)]
    assert _run(_atoms(different), _rows(list(range(12)), aside=0.0)).singletons == frozenset()


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_memory_are_left_as_they_are(count: int) -> None:
    rows = _rows([0] * count) if count else np.empty((0, 64), dtype=np.float32)
    nearest = Nearest(np.empty((count, 0), dtype=np.int32), np.empty((count, 0), dtype=np.float32))
    found = consolidate(_atoms([SOUP] * count), rows, nearest)
    assert found == Consolidation(groups=(), singletons=frozenset())


@pytest.mark.parametrize("size", [5, 700])
def test_the_nearest_are_those_of_a_full_sort(size: int) -> None:
    rows = _rows([number % 60 for number in range(size)], aside=1.0)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    count = min(32, size - 1)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    found = nearest_of(rows, 0, size)
    np.testing.assert_array_equal(found.positions, expected)
    np.testing.assert_allclose(found.cosines, np.take_along_axis(cosines, expected, axis=1))
    part = nearest_of(rows, 2, 4)
    np.testing.assert_array_equal(part.positions, expected[2:4])


def test_the_mean_of_chunks_is_a_unit_vector_and_opposite_ones_do_not_fail() -> None:
    rows = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(mean_direction(rows), [0.5**0.5, 0.5**0.5], rtol=1e-6)
    np.testing.assert_array_equal(mean_direction(np.stack([rows[0], -rows[0]])), [0.0, 0.0])


def test_work_that_is_no_longer_wanted_ends() -> None:
    class EnoughError(Exception):
        pass

    def look_up() -> None:
        raise EnoughError

    rows = _rows([0, 0])
    with pytest.raises(EnoughError):
        consolidate(_atoms([SOUP, SOUP]), rows, nearest_of(rows, 0, 2), look_up)


def test_texts_are_compared_anew_when_too_many_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidation, "_KEPT", 1)
    assert len(_run(_atoms([SOUP, SOUP + ".", SOUP + "!"]), _rows([0, 0, 0])).groups) == 1
