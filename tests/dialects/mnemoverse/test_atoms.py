"""Atoms: written, taught, consolidated, looked up, deleted, exported."""

import json
import uuid
from typing import Any
from urllib.parse import quote

import pytest

Client = Any
NOBODY = "00000000-0000-7000-8000-000000000000"
ABSENT = (404, {"code": "NOT_FOUND", "message": "atom not found", "retryable": False, "details": None})


def iso(moment: Any) -> str:
    text: str = moment.isoformat()
    return text.replace("+00:00", "Z")


async def envelope(house: Any, key: str, **known: Any) -> dict[str, Any]:
    """A new atom of this key as it is shown, but for what is known better."""
    principal = await house.engine.keys.authenticate(key)
    now = iso(house.clock.now())
    return {
        "concepts": [],
        "valence": 0.0,
        "domain": "general",
        "metadata": {},
        "atom_type": "episode",
        "state": "active",
        "source_ids": [],
        "supersedes": [],
        "superseded_by": None,
        "external_ref": None,
        "fingerprint": None,
        "tags": [],
        "memory_type": "insight",
        "version": 1,
        "created_at": now,
        "updated_at": now,
        "provenance": {
            "principal": principal.user_id,
            "agent": None,
            "agent_name": None,
            "client_env": None,
            "is_external": False,
        },
        **known,
    }


# --- write -----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.write", "mnemoverse.atom.get")
async def test_a_text_is_kept_with_all_that_is_said_of_it(api: Client, house: Any, key: str) -> None:
    said = {
        "content": "Retry the payment call with exponential backoff",
        "concepts": ["retry", "Payment API", "backoff"],
        "domain": "project:shop",
        "metadata": {"source": "incident", "nested": {"list": [1, 2.5, None, True]}},
        "external_ref": "incident/42",
        "fingerprint": "task-hash-1",
    }
    answer = await api.post("/memory/write", json=said)
    body = answer.json()
    assert answer.status_code == 200
    assert body == {
        "stored": True,
        "atom_id": str(uuid.UUID(body["atom_id"])),
        "importance": body["importance"],
        "reason": body["reason"],
        "superseded": [],
    }
    assert 0 <= body["importance"] <= 1
    assert body["reason"]
    assert (await api.get(f"/memory/atoms/{body['atom_id']}")).json() == await envelope(
        house, key, **said, atom_id=body["atom_id"], importance=body["importance"]
    )


@pytest.mark.requirement("mnemoverse.write.domain")
@pytest.mark.parametrize("given", [{}, {"domain": "general"}, {"domain": ""}, {"domain": None}])
async def test_without_a_domain_it_is_general(api: Client, write: Any, given: dict[str, Any]) -> None:
    made = await write("kept in the general domain", **given)
    assert (await api.get(f"/memory/atoms/{made}")).json()["domain"] == "general"


@pytest.mark.requirement("mnemoverse.write.domain")
async def test_domain_names_are_told_apart_letter_for_letter(api: Client, write: Any) -> None:
    names = ["Project:X", "project:x", "project:x ", "user:ü", "a/b", "General"]
    for name in names:
        await write(f"said in the domain {name!r}", domain=name)
    assert sorted((await api.get("/memory/domains")).json()["domains"]) == sorted(names)


@pytest.mark.requirement("mnemoverse.write.concepts")
async def test_without_concepts_they_are_read_from_the_text(api: Client, write: Any) -> None:
    made = await write("The Kubernetes ingress controller drops websocket connections", concepts=[])
    assert (await api.get(f"/memory/atoms/{made}")).json()["concepts"] != []


@pytest.mark.requirement("mnemoverse.write.filtered")
async def test_what_is_no_news_is_filtered_and_names_what_it_repeats(api: Client, write: Any) -> None:
    made = await write("The staging database is reset every Sunday")
    answer = await api.post("/memory/write", json={"content": "the staging  database is reset every sunday"})
    body = answer.json()
    assert (answer.status_code, body) == (
        200,
        {
            "stored": False,
            "atom_id": None,
            "importance": body["importance"],
            "reason": body["reason"],
            "superseded": [],
        },
    )
    assert made in body["reason"]
    assert len((await api.post("/memory/recent", json={})).json()["items"]) == 1
    # It is news elsewhere.
    assert await write("The staging database is reset every Sunday", domain="elsewhere") != made


@pytest.mark.requirement("mnemoverse.write.correction")
@pytest.mark.parametrize(
    "correction",
    [
        "The staging database is reset every 4 weeks by Anna Berg",
        "The staging database is reset every 2 weeks by Carl Berg",
        "The staging database is not reset every 2 weeks by Anna Berg",
    ],
)
async def test_a_correction_is_news(write: Any, correction: str) -> None:
    made = await write("The staging database is reset every 2 weeks by Anna Berg")
    assert await write(correction) != made


@pytest.mark.requirement("mnemoverse.write.reference")
async def test_a_reference_names_one_text(api: Client, told: Any) -> None:
    said = {"content": "The lease ends in June", "external_ref": "doc:1"}
    first, again = [(await api.post("/memory/write", json=said)).json() for _ in range(2)]
    other = await api.post("/memory/write", json={**said, "content": "The lease ends in July"})
    batch = (await api.post("/memory/write-batch", json={"items": [said, {**said, "content": "Another"}]})).json()
    assert (again["stored"], again["atom_id"]) == (True, first["atom_id"])
    assert again["reason"] != first["reason"]
    status, body = told(other)
    assert (status, body["code"], body["retryable"]) == (409, "CONFLICT", False)
    assert [(row["stored"], row["atom_id"]) for row in batch["results"]] == [(True, first["atom_id"]), (False, None)]
    assert batch["results"][1]["error"] == body["message"]
    assert (await api.get("/memory/stats")).json()["total_atoms"] == 1


@pytest.mark.requirement("mnemoverse.write.reference")
async def test_a_reference_passes_the_gate(api: Client, write: Any) -> None:
    first = await write("The lease ends in June")
    again = await write("The lease ends in June", external_ref="doc:2")
    assert again != first
    assert (await api.get(f"/memory/atoms/{again}")).json()["external_ref"] == "doc:2"


@pytest.mark.requirement("mnemoverse.write.supersedes")
async def test_an_atom_replaces_others(api: Client, write: Any, read: Any) -> None:
    old = [await write("The office is in Hamburg"), await write("The office has 3 floors in Hamburg", domain="x")]
    answer = await api.post("/memory/write", json={"content": "The office is in Bremen", "supersedes": old})
    body = answer.json()
    assert (answer.status_code, body["stored"], sorted(body["superseded"])) == (200, True, sorted(old))
    for atom_id in old:
        assert (await api.get(f"/memory/atoms/{atom_id}")).json()["superseded_by"] == body["atom_id"]
    assert (await api.get(f"/memory/atoms/{body['atom_id']}")).json()["supersedes"] == old
    live = await read("Where is the office?", min_relevance=0)
    history = {each["atom_id"]: each for each in await read("Where is the office?", include_history=True)}
    assert [(item["atom_id"], item["supersedes"]) for item in live] == [(body["atom_id"], old)]
    assert "superseded_by" not in live[0]
    assert history[old[0]]["superseded_by"] == body["atom_id"]
    assert "supersedes" not in history[old[0]]


@pytest.mark.requirement("mnemoverse.write.supersedes")
async def test_an_unknown_atom_is_not_superseded_and_nothing_is_kept(api: Client, write: Any, told: Any) -> None:
    old = await write("The office is in Hamburg")
    answer = await api.post("/memory/write", json={"content": "The office is in Bremen", "supersedes": [old, NOBODY]})
    assert told(answer) == ABSENT
    assert (await api.get(f"/memory/atoms/{old}")).json()["superseded_by"] is None
    assert len((await api.post("/memory/recent", json={})).json()["items"]) == 1


@pytest.mark.requirement("mnemoverse.write.room")
async def test_shared_rooms_are_unknown(api: Client, told: Any) -> None:
    said = {"content": "a", "domain": "xroom:room_1"}
    answer = await api.post("/memory/write", json=said)
    batch = (await api.post("/memory/write-batch", json={"items": [said]})).json()
    assert told(answer) == (
        404,
        {"code": "NOT_FOUND", "message": "room not found", "retryable": False, "details": None},
    )
    assert [row["error"] for row in batch["results"]] == ["room not found"]


# --- write-batch -----------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.batch", "mnemoverse.batch.bad")
async def test_a_batch_keeps_its_good_items_and_tells_of_the_bad_ones(api: Client, write: Any) -> None:
    known = await write("The bakery opens at seven")
    items = [
        {"content": "The ferry to Norway leaves on Fridays", "concepts": ["ferry"], "domain": "travel"},
        {"content": "x" * 10_001},
        "no object",
        {"content": "The bakery opens at seven"},
        {"content": 5, "concepts": ["", 1]},
        {"content": "A compiler error E0382 means use after move", "external_ref": "r1"},
        {"content": "too much metadata", "metadata": {"a": "x" * 70_000}},
        {},
    ]
    answer = await api.post("/memory/write-batch", json={"items": items})
    body = answer.json()
    rows = body["results"]
    errors = {
        1: "content: too long (max 10000)",
        2: "item: must be an object",
        4: "content: must be a string; concepts[0]: too short (min 1); concepts[1]: must be a string",
        6: "metadata: too large (max 65536 bytes as JSON)",
        7: "content: required",
    }
    assert (answer.status_code, body["total_count"], body["stored_count"]) == (200, 8, 2)
    assert rows == [
        {
            "index": index,
            "stored": index in {0, 5},
            "atom_id": rows[index]["atom_id"] if index in {0, 5} else None,
            "importance": 0.0 if index in errors else rows[index]["importance"],
            "reason": "" if index in errors else rows[index]["reason"],
            "error": errors.get(index),
        }
        for index in range(8)
    ]
    assert known in rows[3]["reason"]
    assert {item["content"] for item in (await api.post("/memory/recent", json={})).json()["items"]} == {
        "The bakery opens at seven",
        items[0]["content"],  # type: ignore[index] # an object
        items[5]["content"],  # type: ignore[index] # an object
    }


@pytest.mark.requirement("mnemoverse.batch.bad")
async def test_a_batch_of_bad_items_alone_is_answered_too(api: Client) -> None:
    answer = await api.post("/memory/write-batch", json={"items": [None, [], 7]})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "total_count": 3,
            "stored_count": 0,
            "results": [
                {
                    "index": index,
                    "stored": False,
                    "atom_id": None,
                    "importance": 0.0,
                    "reason": "",
                    "error": "item: must be an object",
                }
                for index in range(3)
            ],
        },
    )


@pytest.mark.requirement("mnemoverse.batch")
async def test_a_batch_filters_what_it_repeats_itself(api: Client) -> None:
    items = [{"content": "Said twice in one batch"}, {"content": "said twice in one batch"}]
    rows = (await api.post("/memory/write-batch", json={"items": items})).json()["results"]
    assert [row["stored"] for row in rows] == [True, False]
    assert rows[0]["atom_id"] in rows[1]["reason"]


# --- feedback --------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.feedback")
async def test_outcomes_move_valence_and_the_order_of_what_is_read(api: Client, write: Any, read: Any) -> None:
    good = await write("Restart the worker to clear the stuck queue", concepts=["worker", "queue"])
    bad = await write("Delete the lock file to clear the stuck queue", concepts=["lock file", "queue"])
    question = "How do I clear the stuck queue?"
    before = {item["atom_id"]: item for item in await read(question, include_associations=False)}
    for atom_id, outcome in ((good, 1), (bad, -1.0)):
        answer = await api.post("/memory/feedback", json={"atom_ids": [atom_id], "outcome": outcome})
        valence = (await api.get(f"/memory/atoms/{atom_id}")).json()["valence"]
        assert (answer.status_code, answer.json()) == (
            200,
            {"updated_count": 1, "avg_valence": pytest.approx(valence), "coactivation_edges": 0},
        )
        assert 0 < valence * outcome <= 1
    after = {item["atom_id"]: item for item in await read(question, include_associations=False, min_relevance=0)}
    assert after[good]["relevance"] > before[good]["relevance"]
    assert after[bad]["relevance"] < before[bad]["relevance"]
    assert next(iter(after)) == good


@pytest.mark.requirement("mnemoverse.feedback.coactivation")
async def test_query_concepts_are_associated_with_the_atoms_concepts(api: Client, write: Any) -> None:
    atom_id = await write("Kiel is where the canal begins", concepts=["Kiel", "canal"])
    taught = await api.post(
        "/memory/feedback", json={"atom_ids": [atom_id], "outcome": 1, "query_concepts": ["waterway", "north"]}
    )
    graph = (await api.post("/memory/graph", json={"seeds": ["waterway"]})).json()
    assert taught.json()["coactivation_edges"] == 4
    assert {(edge["source"], edge["target"]) for edge in graph["edges"]} == {
        ("canal", "waterway"),
        ("kiel", "waterway"),
    }


@pytest.mark.requirement("mnemoverse.feedback.domain", "mnemoverse.feedback.unknown")
async def test_every_known_atom_is_taught_whatever_its_domain(api: Client, write: Any) -> None:
    made = [await write("In general it rains"), await write("On the coast it storms", domain="coast")]
    answer = await api.post(
        "/memory/feedback", json={"atom_ids": [*made, made[0], NOBODY], "outcome": 0.5, "domain": "general"}
    )
    valences = [(await api.get(f"/memory/atoms/{atom_id}")).json()["valence"] for atom_id in made]
    assert answer.json() == {
        "updated_count": 2,
        "avg_valence": pytest.approx(sum(valences) / 2),
        "coactivation_edges": 0,
    }
    assert all(valence > 0 for valence in valences)


# --- consolidation ---------------------------------------------------------------------------------------

SAME = [
    "Anna prefers meetings in the morning before ten",
    "Anna prefers her meetings in the morning, before ten",
    "Meetings with Anna: she prefers the morning before ten",
    "Anna likes to have meetings in the morning before ten",
    "In the morning before ten is when Anna prefers meetings",
]


async def _keep_the_same(write: Any, domain: str) -> list[str]:
    return [await write(text, domain=domain, external_ref=f"{domain}/{number}") for number, text in enumerate(SAME)] + [
        await write("The spare key lies under the third flower pot", domain=domain)
    ]


@pytest.mark.requirement("mnemoverse.consolidate", "mnemoverse.consolidate.restore", "mnemoverse.atom.archived")
async def test_what_says_the_same_becomes_one_and_can_be_taken_apart(
    api: Client, house: Any, *, write: Any, read: Any, told: Any
) -> None:
    made = await _keep_the_same(write, "project:sleep")
    answer = await house.beside_worker(api.post("/memory/consolidate", json={"domain": "project:sleep"}))
    body = answer.json()
    assert (answer.status_code, body) == (
        200,
        {
            "domain": "project:sleep",
            "atoms_before": 6,
            "atoms_after": body["atoms_after"],
            "prototypes_created": 1,
            "singletons_protected": body["singletons_protected"],
            "compression_ratio": pytest.approx(6 / body["atoms_after"]),
            "duration_ms": body["duration_ms"],
        },
    )
    assert body["atoms_after"] < 6
    shown = await read("When does Anna prefer meetings?", domain="project:sleep", min_relevance=0)
    prototypes = [
        atom
        for atom in [(await api.get(f"/memory/atoms/{item['atom_id']}")).json() for item in shown]
        if atom["atom_type"] == "prototype"
    ]
    assert len(prototypes) == 1
    sources = prototypes[0]["source_ids"]
    assert set(sources) <= set(made)
    archived = (await api.get(f"/memory/atoms/{sources[0]}")).json()
    assert (archived["state"], archived["superseded_by"]) == ("archived", prototypes[0]["atom_id"])
    assert not {item["atom_id"] for item in shown} & set(sources)
    again = await house.beside_worker(api.post("/memory/consolidate", json={"domain": "project:sleep"}))
    assert (again.json()["prototypes_created"], again.json()["atoms_after"]) == (0, body["atoms_after"])

    restored = await api.post(f"/memory/atoms/{prototypes[0]['atom_id'].upper()}/restore")
    assert (restored.status_code, restored.json()) == (
        200,
        {"restored": len(sources), "atom_id": prototypes[0]["atom_id"]},
    )
    assert {(await api.get(f"/memory/atoms/{each}")).json()["state"] for each in sources} == {"active"}
    for atom_id in (NOBODY, prototypes[0]["atom_id"], made[-1]):
        status, refusal = told(await api.post(f"/memory/atoms/{atom_id}/restore"))
        assert (status, refusal["code"], refusal["message"]) == (404, "NOT_FOUND", "prototype not found")
    assert told(await api.post("/memory/atoms/no-uuid/restore")) == ABSENT


@pytest.mark.requirement("mnemoverse.consolidate.general", "mnemoverse.consolidate.unknown")
@pytest.mark.parametrize("domain", [None, "", "general", "nobody:knows"])
async def test_a_domain_without_atoms_consolidates_to_nothing(api: Client, house: Any, domain: str | None) -> None:
    answer = await house.beside_worker(api.post("/memory/consolidate", json={"domain": domain}))
    duration = answer.json()["duration_ms"]
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "domain": domain or "general",
            "atoms_before": 0,
            "atoms_after": 0,
            "prototypes_created": 0,
            "singletons_protected": 0,
            "compression_ratio": 1.0,
            "duration_ms": duration,
        },
    )


# --- one atom --------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.atom.get")
@pytest.mark.parametrize("atom_id", [NOBODY, "no-uuid", "by-external-ref"])
async def test_an_unknown_atom_is_not_found(api: Client, told: Any, atom_id: str) -> None:
    assert told(await api.get(f"/memory/atoms/{atom_id}")) == ABSENT


@pytest.mark.requirement("mnemoverse.atom.reference")
async def test_an_atom_is_found_by_its_reference(api: Client, write: Any, told: Any) -> None:
    made = await write("kept under a name", external_ref="Doc: Ü/1", domain="archive")
    found = await api.post("/memory/atoms/by-external-ref", json={"external_ref": "Doc: Ü/1"})
    assert (found.status_code, found.json()) == (200, (await api.get(f"/memory/atoms/{made}")).json())
    assert found.json()["domain"] == "archive"
    other = await api.post("/memory/atoms/by-external-ref", json={"external_ref": "doc: ü/1"})
    assert told(other) == ABSENT


@pytest.mark.requirement("mnemoverse.atom.delete")
async def test_an_atom_is_deleted_for_good_and_again_harmlessly(api: Client, write: Any, read: Any, told: Any) -> None:
    made = await write("deleted in a moment", external_ref="r")
    answers = [await api.delete(f"/memory/atoms/{atom_id}") for atom_id in (made, made, NOBODY, "no-uuid")]
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (200, {"deleted": 1, "atom_id": made}),
        (200, {"deleted": 0, "atom_id": made}),
        (200, {"deleted": 0, "atom_id": NOBODY}),
        (200, {"deleted": 0, "atom_id": "no-uuid"}),
    ]
    assert told(await api.get(f"/memory/atoms/{made}")) == ABSENT
    assert await read("deleted in a moment", min_relevance=0) == []
    assert (await api.get("/memory/stats")).json()["total_atoms"] == 0


# --- domains ---------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.domain.delete", "mnemoverse.domains")
async def test_a_domain_is_wiped_and_no_other(api: Client, write: Any, told: Any) -> None:
    names = ["project:x", "a/b", "ends/", "ends", "50%", "general"]
    for name in names:
        await write(f"first of {name}", domain=name)
        await write(f"second of {name}", domain=name)
    assert sorted((await api.get("/memory/domains")).json()["domains"]) == sorted(names)
    left = set(names)
    for name in ("project:x", "ends/", "50%", "a/b", "general"):
        answer = await api.delete(f"/memory/domain/{quote(name, safe='')}")
        assert (answer.status_code, answer.json()) == (200, {"deleted": 2, "domain": name})
        left.remove(name)
        assert set((await api.get("/memory/domains")).json()["domains"]) == left
    unknown = (404, {"code": "NOT_FOUND", "message": "domain not found", "retryable": False, "details": None})
    assert told(await api.delete("/memory/domain/nobody:knows")) == unknown
    assert told(await api.delete("/memory/domain//")) == unknown
    # An encoded letter of the path itself, and a slash at its end.
    assert (await api.delete("/memory/dom%61in/ends/")).json() == {"deleted": 2, "domain": "ends"}
    assert (await api.get("/memory/domains")).json() == {"domains": []}


@pytest.mark.requirement("mnemoverse.domain.delete")
async def test_a_domain_is_wiped_under_a_prefix_too(house: Any, write: Any, key: str) -> None:
    await write("said at the end", domain="ends/")
    async with house.client(house.app(mounts={"mnemoverse": "/apis/m"}), {"X-Api-Key": key}) as client:
        answer = await client.delete("/apis/m/api/v1/memory/domain/ends%2F")
    assert (answer.status_code, answer.json()) == (200, {"deleted": 1, "domain": "ends/"})


@pytest.mark.requirement("mnemoverse.reset")
async def test_a_reset_is_refused_unless_a_setting_allows_it(api: Client, write: Any, caller: Any, told: Any) -> None:
    await write("in general")
    await write("in a domain", domain="d")
    refused = await api.delete("/memory/reset")
    assert told(refused) == (
        403,
        {"code": "FORBIDDEN", "message": "reset is not enabled on this server", "retryable": False, "details": None},
    )
    assert (await api.get("/memory/stats")).json()["total_atoms"] == 2
    async with caller.on(is_reset_enabled=True) as allowed:
        answer = await allowed.delete("/memory/reset")
    assert (answer.status_code, answer.json()) == (200, {"deleted": 2})
    assert (await api.get("/memory/stats")).json()["total_atoms"] == 0


# --- everything ------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.stats")
async def test_statistics_count_what_is_there(api: Client, write: Any) -> None:
    empty = (await api.get("/memory/stats")).json()
    assert empty == {
        "total_atoms": 0,
        "episodes": 0,
        "prototypes": 0,
        "singletons": 0,
        "hebbian_edges": 0,
        "episodic_fingerprints": 0,
        "domains": [],
        "avg_valence": 0.0,
        "avg_importance": 0.0,
    }
    made = [
        await write("Boats need paint every spring", concepts=["boat", "paint", "spring"]),
        await write("Nets are mended in winter", concepts=["net", "winter"], domain="harbour", fingerprint="n"),
    ]
    await api.post("/memory/feedback", json={"atom_ids": made[:1], "outcome": 1})
    atoms = [(await api.get(f"/memory/atoms/{atom_id}")).json() for atom_id in made]
    assert (await api.get("/memory/stats")).json() == {
        "total_atoms": 2,
        "episodes": 2,
        "prototypes": 0,
        "singletons": 0,
        "hebbian_edges": 4,
        "episodic_fingerprints": 2,
        "domains": ["general", "harbour"],
        "avg_valence": pytest.approx(sum(atom["valence"] for atom in atoms) / 2),
        "avg_importance": pytest.approx(sum(atom["importance"] for atom in atoms) / 2),
    }


@pytest.mark.requirement("mnemoverse.export")
async def test_an_export_holds_every_atom_and_every_association_once(api: Client, write: Any, clock: Any) -> None:
    made = [
        await write("Boats need paint every spring", concepts=["boat", "paint", "spring"]),
        await write("Spring brings the boats out", concepts=["boat", "spring"]),
        await write("Nets are mended in winter", concepts=["net", "winter"], domain="harbour"),
    ]
    clock.advance(5)
    made.append(await write("Nets are mended in autumn", concepts=["net"], domain="harbour", supersedes=[made[2]]))
    answer = await api.get("/memory/export")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.text.endswith("}\n")
    associations = [line.pop("associations") for line in lines]
    assert {line["atom_id"]: line for line in lines} == {
        atom_id: (await api.get(f"/memory/atoms/{atom_id}")).json() for atom_id in made
    }
    assert len(lines) == 4
    edges = [edge for owned in associations for edge in owned]
    assert sorted((edge["source"], edge["target"]) for edge in edges) == [
        ("boat", "paint"),
        ("boat", "spring"),
        ("net", "winter"),
        ("paint", "spring"),
    ]
    shown = [
        edge
        for domain, seeds in (("general", ["boat", "paint"]), ("harbour", ["net"]))
        for edge in (await api.post("/memory/graph", json={"seeds": seeds, "domain": domain})).json()["edges"]
    ]
    assert sorted(edges, key=str) == sorted(shown, key=str)


@pytest.mark.requirement("mnemoverse.export")
async def test_a_long_export_goes_on_page_by_page(api: Client) -> None:
    items = [
        {"content": f"Shelf {number} holds {number * 7} books", "external_ref": str(number)} for number in range(120)
    ]
    await api.post("/memory/write-batch", json={"items": items})
    lines = (await api.get("/memory/export")).text.splitlines()
    assert sorted(int(json.loads(line)["external_ref"]) for line in lines) == list(range(120))


@pytest.mark.requirement("mnemoverse.export")
async def test_an_export_of_nothing_is_empty(api: Client) -> None:
    answer = await api.get("/memory/export")
    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.requirement("mnemoverse.rooms")
async def test_there_are_no_rooms(api: Client) -> None:
    answer = await api.get("/memory/rooms")
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.requirement("mnemoverse.times")
async def test_times_are_utc_with_their_offset(api: Client, write: Any, clock: Any) -> None:
    clock.advance(7)
    made = await write("written at a moment")
    assert (await api.get(f"/memory/atoms/{made}")).json()["created_at"] == iso(clock.now())
