"""Atoms found again: by a question, by time, by their concepts."""

import re
from typing import Any

import pytest

Client = Any
LATER = "2100-01-01"


async def _provenance(house: Any, key: str) -> dict[str, Any]:
    principal = await house.engine.keys.authenticate(key)
    return {
        "principal": principal.user_id,
        "agent": None,
        "agent_name": None,
        "client_env": None,
        "is_external": False,
    }


def iso(moment: Any) -> str:
    text: str = moment.isoformat()
    return text.replace("+00:00", "Z")


# --- read ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.read", "mnemoverse.read.item")
async def test_a_question_is_answered_with_whole_items(api: Client, write: Any, house: Any, key: str) -> None:
    content = "The invoice service runs on port 8443"
    made = await write(content, concepts=["invoice service", "port"], domain="ops", metadata={"source": "wiki"})
    await write("Cats sleep most of the day", domain="ops")
    answer = await api.post("/memory/read", json={"query": "On which port does the invoice service run?"})
    body = answer.json()
    item = body["items"][0]
    atom = (await api.get(f"/memory/atoms/{made}")).json()
    assert answer.status_code == 200
    assert item == {
        "atom_id": made,
        "content": content,
        "concepts": ["invoice service", "port"],
        "domain": "ops",
        "created_at": iso(house.clock.now()),
        "provenance": await _provenance(house, key),
        "relevance": item["relevance"],
        "similarity": item["similarity"],
        "valence": 0.0,
        "importance": atom["importance"],
        "source": "semantic",
        "metadata": {"source": "wiki"},
    }
    assert item["relevance"] >= 0.3
    assert -1 <= item["similarity"] <= 1
    assert body == {
        "items": body["items"],
        "episodic_hit": False,
        "query_concepts": body["query_concepts"],
        "expanded_concepts": body["expanded_concepts"],
        "search_time_ms": 0.0,
    }
    assert {"invoice service", "port"} <= set(body["query_concepts"]) <= set(body["expanded_concepts"])
    relevances = [each["relevance"] for each in body["items"]]
    assert relevances == sorted(relevances, reverse=True)


@pytest.mark.requirement("mnemoverse.read.domain")
async def test_a_domain_bounds_what_is_read(write: Any, read: Any) -> None:
    made = {
        name: await write(f"The {number} office plant needs water", domain=name)
        for number, name in (("first", "general"), ("second", "home"), ("third", "Home"))
    }
    asked = {"query": "Which office plant needs water?", "min_relevance": 0}

    async def ids(**more: Any) -> set[str]:
        return {item["atom_id"] for item in await read(**asked, **more)}

    assert await ids() == await ids(domain=None) == await ids(domain="") == set(made.values())
    for name, atom_id in made.items():
        assert await ids(domain=name) == {atom_id}
        assert [item["domain"] for item in await read(**asked, domain=name)] == [name]
    assert await ids(domain="HOME") == set()


@pytest.mark.requirement("mnemoverse.read.unknown_domain")
async def test_an_unknown_domain_is_read_as_empty(api: Client, write: Any) -> None:
    await write("something in general", concepts=["something"])
    for path, asked in (
        ("read", {"query": "something", "domain": "nobody:knows"}),
        ("query", {"query": "something", "domains": ["nobody:knows"]}),
        ("recent", {"domain": "nobody:knows"}),
    ):
        answer = await api.post(f"/memory/{path}", json=asked)
        assert (answer.status_code, answer.json()["items"]) == (200, [])
    graph = await api.post("/memory/graph", json={"seeds": ["something"], "domain": "nobody:knows"})
    assert (graph.status_code, graph.json()["edges"]) == (200, [])


@pytest.mark.requirement("mnemoverse.read.limit")
async def test_results_are_cut_by_number_and_relevance(write: Any, read: Any) -> None:
    for number in range(5):
        await write(f"Ticket {number}: the printer on floor {number} jams", concepts=["printer"])
    await write("Poems rhyme at times")
    question = "Which printer jams?"
    everything = await read(question, min_relevance=0)
    assert [len(await read(question, top_k=top_k, min_relevance=0)) for top_k in (1, 3, 100)] == [1, 3, len(everything)]
    cut = everything[2]["relevance"]
    assert [item["relevance"] >= cut for item in await read(question, min_relevance=min(1.0, cut))] == [True] * sum(
        item["relevance"] >= min(1.0, cut) for item in everything
    )
    assert await read("Wholly unrelated: quantum chromodynamics lattice", min_relevance=0.9) == []


@pytest.mark.requirement("mnemoverse.read.associations")
async def test_associated_concepts_find_what_shares_no_word(api: Client, write: Any, read: Any) -> None:
    await write("Checkout uses Stripe for cards", concepts=["checkout", "stripe"])
    bridge = await write("Rotate signing secrets twice a year", concepts=["stripe", "webhook"])
    question = "checkout"
    alone = await read(question, include_associations=False)
    found = {item["atom_id"]: item for item in await read(question, min_relevance=0.05)}
    answer = (await api.post("/memory/read", json={"query": question})).json()
    unexpanded = (await api.post("/memory/read", json={"query": question, "include_associations": False})).json()
    assert bridge not in {item["atom_id"] for item in alone}
    assert found[bridge]["source"] == "hebbian"
    assert "stripe" in answer["expanded_concepts"]
    assert unexpanded["expanded_concepts"] == unexpanded["query_concepts"]


@pytest.mark.requirement("mnemoverse.read.hints")
async def test_hints_are_concepts_of_the_question(api: Client, write: Any) -> None:
    await write("Checkout uses Stripe for cards", concepts=["checkout", "stripe"])
    answer = (await api.post("/memory/read", json={"query": "what about money?", "concepts": ["Checkout"]})).json()
    assert "checkout" in answer["query_concepts"]
    assert "stripe" in answer["expanded_concepts"]


@pytest.mark.requirement("mnemoverse.read.fingerprint")
async def test_a_fingerprint_is_matched_exactly(api: Client, write: Any) -> None:
    made = await write("Use the blue deployment key", fingerprint="task/ä-1")
    by_name = (await api.post("/memory/read", json={"query": "unrelated words", "fingerprint": "task/ä-1"})).json()
    by_text = (await api.post("/memory/read", json={"query": "use the BLUE deployment  key"})).json()
    other = (await api.post("/memory/read", json={"query": "unrelated words", "fingerprint": "TASK/ä-1"})).json()
    assert [
        (body["episodic_hit"], body["items"][0]["atom_id"], body["items"][0]["source"]) for body in (by_name, by_text)
    ] == [(True, made, "episodic")] * 2
    assert not other["episodic_hit"]


@pytest.mark.requirement("mnemoverse.read.time", "mnemoverse.read.order", "mnemoverse.read.author")
async def test_time_author_and_order_bound_and_sort(write: Any, read: Any, clock: Any, house: Any, key: str) -> None:
    made, times = [], []
    for number, agent in enumerate(["ada", "bob", "ada"]):
        clock.advance(60)
        headers = {"X-Mnemo-Agent-Id": agent}
        made.append(await write(f"Release {number} went out at night", headers=headers))
        times.append(clock.now())
    asked = {"query": "Which release went out at night?", "min_relevance": 0}

    async def places(**more: Any) -> list[int]:
        return [made.index(item["atom_id"]) for item in await read(**asked, **more)]

    assert sorted(await places()) == [0, 1, 2]
    assert await places(order_by="recency") == [2, 1, 0]
    assert await places(order_by="relevance") == await places()
    assert sorted(await places(since=iso(times[1]))) == [1, 2]
    assert sorted(await places(until=iso(times[1]))) == [0, 1]
    assert await places(since=iso(times[1]), until=iso(times[1])) == [1]
    naive = times[1].replace(tzinfo=None).isoformat()
    assert await places(since=naive, until=naive) == [1]
    assert await places(since=LATER) == []
    assert await places(exclude_author="ada") == [1]
    assert await places(exclude_author="ADA", since="2000-01-01T00:00:00+02:00", until=LATER) == await places()
    principal = await house.engine.keys.authenticate(key)
    assert await places(exclude_author=principal.user_id) == []


@pytest.mark.requirement("mnemoverse.read.diversity")
async def test_diversity_keeps_copies_from_taking_every_place(write: Any, read: Any) -> None:
    for number in range(4):
        await write(f"The gym is open until 10 pm on day {number}", external_ref=f"gym{number}")
    other = await write("The gym closes on holidays", external_ref="holiday")
    question = "When is the gym open until?"
    plain = await read(question, top_k=2, min_relevance=0)
    mixed = await read(question, top_k=2, min_relevance=0, diversity=0.9)
    assert other not in {item["atom_id"] for item in plain}
    assert other in {item["atom_id"] for item in mixed}


# --- several questions, several domains ------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.read_batch")
async def test_each_question_of_a_batch_is_answered_in_its_place(api: Client, write: Any) -> None:
    for city in ("Oslo", "Riga"):
        await write(f"The office in {city} has a garden", domain=city)
    queries = [
        {"query": f"Is there a garden in {city}?", "domain": city, "min_relevance": 0}
        for city in ["Oslo", "Riga", "Bonn"] * 4
    ]
    answer = await api.post("/memory/read-batch", json={"queries": queries})
    single = [(await api.post("/memory/read", json=query)).json() for query in queries]
    assert (answer.status_code, answer.json()) == (200, {"results": single})
    assert [len(each["items"]) for each in single] == [1, 1, 0] * 4


@pytest.mark.requirement("mnemoverse.query")
async def test_several_domains_are_asked_at_once(api: Client, write: Any) -> None:
    for city in ("Oslo", "Riga", "Bonn"):
        await write(f"The office in {city} has a garden", domain=city)
    asked = {"query": "Where is a garden?", "min_relevance": 0}

    async def domains(**more: Any) -> list[str]:
        answer = await api.post("/memory/query", json={**asked, **more})
        assert answer.status_code == 200
        assert list(answer.json()) == ["items", "episodic_hit", "query_concepts", "expanded_concepts", "search_time_ms"]
        return sorted(item["domain"] for item in answer.json()["items"])

    assert await domains(domains=["Oslo", "Riga"]) == ["Oslo", "Riga"]
    assert await domains(domains=["Oslo", "Oslo", "nowhere"]) == ["Oslo"]
    assert await domains(domains=["Oslo"], domain="Bonn") == ["Bonn", "Oslo"]
    assert await domains(domain="Bonn") == ["Bonn"]
    assert await domains() == await domains(domains=[]) == await domains(domains=None) == ["Bonn", "Oslo", "Riga"]


@pytest.mark.requirement("mnemoverse.query.filter")
@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([("kind", "eq", "bug")], {0, 1}),
        ([("kind", "eq", "Bug")], set()),
        ([("at.line", "eq", 7)], {0}),
        ([("at", "eq", {"line": 7, "file": "a.py"})], {0}),
        ([("labels", "contains", "ui")], {0, 2}),
        ([("kind", "contains", "eat")], {2}),
        ([("kind", "in", ["bug", "chore"])], {0, 1}),
        ([("kind", "in", [])], set()),
        ([("kind", "eq", "bug"), ("labels", "contains", "ui")], {0}),
        ([("nothing.here", "eq", None)], set()),
        ([("fixed", "eq", False)], {1}),
        ([("fixed", "eq", 0)], set()),
    ],
)
async def test_conditions_on_the_metadata_all_hold(
    api: Client, write: Any, conditions: list[tuple[str, str, Any]], expected: set[int]
) -> None:
    metadata: list[dict[str, Any]] = [
        {"kind": "bug", "at": {"file": "a.py", "line": 7}, "labels": ["ui", "core"]},
        {"kind": "bug", "labels": ["core"], "fixed": False},
        {"kind": "feature", "labels": ["ui"]},
    ]
    made = [await write(f"Ticket {place} is about the menu", metadata=said) for place, said in enumerate(metadata)]
    filters = [{"field": path, "op": comparison, "value": value} for path, comparison, value in conditions]
    asked = {"query": "Which ticket is about the menu?", "min_relevance": 0, "metadata_filter": filters}
    answer = await api.post("/memory/query", json=asked)
    assert {made.index(item["atom_id"]) for item in answer.json()["items"]} == expected


# --- recent ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.recent")
async def test_the_newest_come_first_with_whole_items(
    api: Client, write: Any, clock: Any, house: Any, key: str
) -> None:
    first = await write("The first of all", concepts=["first"])
    clock.advance(1)
    second = await write("The second replaces it", concepts=["second"], domain="d", supersedes=[first])
    answer = await api.post("/memory/recent", json={})
    replaced = await api.post("/memory/recent", json={"include_history": True, "domain": "general"})
    provenance = await _provenance(house, key)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "items": [
                {
                    "atom_id": second,
                    "content": "The second replaces it",
                    "concepts": ["second"],
                    "domain": "d",
                    "created_at": iso(clock.now()),
                    "provenance": provenance,
                    "supersedes": [first],
                }
            ],
            "next_cursor": None,
        },
    )
    assert [(item["atom_id"], item["superseded_by"]) for item in replaced.json()["items"]] == [(first, second)]


@pytest.mark.requirement("mnemoverse.recent.cursor")
async def test_pages_follow_each_other_whatever_happens_between_them(api: Client, write: Any, clock: Any) -> None:
    made = []
    for number in range(9):
        if number % 3 == 0:
            clock.advance(1)  # several have the same time
        made.append(await write(f"Entry {number} of the log says {number * 37}"))
    seen: list[str] = []
    cursor = None
    for page in range(10):
        body = (await api.post("/memory/recent", json={"limit": 2, "cursor": cursor})).json()
        seen += [item["atom_id"] for item in body["items"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
        assert re.fullmatch(r"[A-Za-z0-9_=-]{1,512}", cursor)
        clock.advance(1)
        await write(f"Written between the pages {page} and {page + 1}")
        await api.delete(f"/memory/atoms/{seen[-1]}")
    assert seen == sorted(made, key=lambda atom_id: (made.index(atom_id) // 3, atom_id), reverse=True)


@pytest.mark.requirement("mnemoverse.recent")
async def test_a_full_last_page_has_no_cursor(api: Client, write: Any) -> None:
    for number in range(3):
        await write(f"Entry {number} of a short log")
    body = (await api.post("/memory/recent", json={"limit": 3})).json()
    assert (len(body["items"]), body["next_cursor"]) == (3, None)
    assert (await api.post("/memory/recent", json={"cursor": ""})).json() == body


@pytest.mark.requirement("mnemoverse.recent.filters")
async def test_the_feed_takes_time_author_and_domain(api: Client, write: Any, clock: Any) -> None:
    made, times = [], []
    for agent, domain in (("ada", "x"), ("bob", "y"), ("ada", "y")):
        clock.advance(60)
        made.append(await write(f"{agent} was in {domain}", domain=domain, headers={"X-Mnemo-Agent-Id": agent}))
        times.append(clock.now())

    async def places(**asked: Any) -> list[int]:
        items = (await api.post("/memory/recent", json=asked)).json()["items"]
        return [made.index(item["atom_id"]) for item in items]

    assert await places() == await places(domain="") == [2, 1, 0]
    assert await places(domain="y") == [2, 1]
    assert await places(exclude_author="ada") == [1]
    assert await places(since=iso(times[1])) == [2, 1]
    assert await places(until=iso(times[1])) == [1, 0]


# --- graph -----------------------------------------------------------------------------------------------


@pytest.mark.requirement("mnemoverse.graph")
async def test_the_associations_around_a_concept_are_shown(api: Client, write: Any, clock: Any) -> None:
    await write("Boats need paint every spring", concepts=["Boat", "Paint", "spring"])
    await write("Nets are mended in winter", concepts=["net", "winter"])
    answer = await api.post("/memory/graph", json={"seeds": ["BOAT", "unknown"]})
    body = answer.json()
    weight = body["edges"][0]["weight"]
    assert (answer.status_code, body) == (
        200,
        {
            "nodes": [
                {"concept": "boat", "degree": 2},
                {"concept": "paint", "degree": 1},
                {"concept": "spring", "degree": 1},
            ],
            "edges": [
                {
                    "source": "boat",
                    "target": target,
                    "weight": weight,
                    "valence": 0.0,
                    "count": 1,
                    "updated_at": iso(clock.now()),
                }
                for target in ("paint", "spring")
            ],
            "truncated": False,
            "min_weight_applied": 0.0,
        },
    )
    assert 0 < weight <= 1
    nothing = (await api.post("/memory/graph", json={"seeds": ["unknown"]})).json()
    assert nothing == {"nodes": [], "edges": [], "truncated": False, "min_weight_applied": 0.0}


@pytest.mark.requirement("mnemoverse.graph.walk")
async def test_depth_limit_weight_and_domain_bound_the_walk(api: Client, write: Any) -> None:
    for one, other in (("a1", "b1"), ("b1", "c1"), ("c1", "d1"), ("d1", "e1")):
        await write(f"Path {one} leads on to {other}", concepts=[one, other])
    await write("In another domain a1 leads to z1", concepts=["a1", "z1"], domain="other")

    async def walk(**asked: Any) -> tuple[list[tuple[str, str]], bool, float]:
        body = (await api.post("/memory/graph", json={"seeds": ["a1"], **asked})).json()
        return (
            sorted((edge["source"], edge["target"]) for edge in body["edges"]),
            body["truncated"],
            body["min_weight_applied"],
        )

    near = [("a1", "b1"), ("a1", "z1")]
    far = [("a1", "b1"), ("b1", "c1"), ("c1", "d1")]
    assert await walk() == (near, False, 0.0)
    assert await walk(domain="other") == ([("a1", "z1")], False, 0.0)
    assert await walk(domain="general", depth=3) == (far, False, 0.05)
    assert await walk(domain="general", depth=3, min_weight=0.0) == (far, False, 0.0)
    assert await walk(domain="general", depth=2, min_weight=1) == ([], False, 1.0)
    edges, is_truncated, _ = await walk(domain="general", depth=3, limit=2)
    assert (len(edges), is_truncated) == (2, True)
