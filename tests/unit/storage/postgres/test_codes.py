"""Terms as PostgreSQL stores them: apart by tenant, exactly invertible, within what pgvector allows."""

from random import Random

import numpy as np
import pytest

from polymem.domain.scoring import bm25
from polymem.errors import StorageDamaged
from polymem.storage.postgres.codes import (
    MOST_WEIGHTS,
    PLACES,
    places_of,
    plain_codes,
    plain_terms,
    sent_codes,
    sparse,
    stored_terms,
    tenant_codes,
)
from polymem.storage.terms import codes_of, pack_terms

TENANTS = (0, 1, 2, 3, 1000, 2**31 - 1)


def terms_of(seed: int) -> tuple[str, ...]:
    """Some terms, some of them often, and in a third of the cases one more often than a byte can count."""
    random = Random(seed)
    made = [f"term{random.randrange(400)}" for _ in range(random.randrange(200))]
    return tuple(made + ["often"] * (300 if seed % 3 == 0 else 0))


@pytest.mark.parametrize("tenant_no", TENANTS)
def test_a_stored_code_gives_the_plain_one_back(tenant_no: int) -> None:
    plain = np.array([0, 1, 2**63, 2**64 - 1, *codes_of(("a", "b")).tolist()], dtype=np.uint64)
    assert plain_codes(tenant_no, tenant_codes(tenant_no, plain)).tolist() == plain.tolist()


def test_no_two_tenants_store_a_term_under_the_same_code() -> None:
    codes = codes_of(f"term{number}" for number in range(500))
    stored = [code for tenant_no in range(200) for code in tenant_codes(tenant_no, codes).tolist()]
    assert len(set(stored)) == len(stored)


@pytest.mark.parametrize("seed", range(12))
def test_an_entry_comes_back_byte_for_byte(seed: int) -> None:
    packed = pack_terms(terms_of(seed))
    for tenant_no in TENANTS:
        stored = stored_terms(tenant_no, packed)
        assert np.all(np.diff(stored.codes) > 0)
        assert plain_terms(tenant_no, stored.codes, stored.counts) == packed


def test_each_weight_is_what_bm25_gives_the_term_in_an_entry_of_average_length() -> None:
    terms = ("one", "two", "two", *["nine"] * 9)
    stored = stored_terms(7, pack_terms(terms))
    weights = dict(zip(stored.weights.indices(), stored.weights.values(), strict=True))
    places = places_of(tenant_codes(7, codes_of(("one", "two", "nine")))).tolist()
    expected = [bm25(count=count, length=10, average_length=10) for count in (1, 2, 9)]
    assert [weights[place] for place in places] == pytest.approx(expected)
    assert stored.weights.dimensions() == PLACES
    assert stored.weights.indices() == sorted(stored.weights.indices())


def test_of_more_terms_than_fit_the_most_frequent_keep_their_weights_and_all_keep_their_codes() -> None:
    many = tuple(f"term{number}" for number in range(MOST_WEIGHTS + 500))
    stored = stored_terms(3, pack_terms((*many, "term7", "term16400")))
    assert len(stored.codes) == len(many)
    assert MOST_WEIGHTS - 10 <= len(stored.weights.indices()) <= MOST_WEIGHTS
    frequent = places_of(tenant_codes(3, codes_of(("term7", "term16400")))).tolist()
    assert set(frequent) <= set(stored.weights.indices())


def test_two_values_at_one_place_leave_the_larger() -> None:
    made = sparse(np.array([5, 9, 5]), np.array([1.0, 3.0, 2.0], dtype=np.float32))
    assert (made.indices(), made.values()) == ([5, 9], [2.0, 3.0])


def test_codes_as_the_server_sends_them_are_read_entry_by_entry() -> None:
    item = b"\x00\x00\x00\x08"
    header = b"\x00\x00\x00\x01" + b"\x00" * 4 + b"\x00\x00\x00\x14" + b"\x00\x00\x00\x02" + b"\x00\x00\x00\x01"
    empty = b"\x00" * 8 + b"\x00\x00\x00\x14"
    full = header + item + (5).to_bytes(8, "big", signed=True) + item + (-6).to_bytes(8, "big", signed=True)
    codes, sizes = sent_codes([empty, full, empty, full])
    assert codes.tolist() == [5, -6, 5, -6]
    assert sizes.tolist() == [0, 2, 0, 2]


def test_counts_that_fit_no_number_of_codes_are_damage() -> None:
    with pytest.raises(StorageDamaged):
        plain_terms(1, np.array([1, 2, 3], dtype=np.int64), b"\x01\x02")
