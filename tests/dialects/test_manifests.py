"""Every wire behaviour has its test, every test proves a behaviour that exists, every route is a behaviour."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polymem.http.app import known_dialects, load_dialect

HERE = Path(__file__).parent
NAMES = sorted(path.parent.name for path in HERE.glob("*/manifest.toml"))
KINDS = {"page", "contract", "choice", "design", "extension"}
METHODS = {"get", "put", "post", "patch", "delete"}


def behaviours(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((HERE / name / "manifest.toml").read_text())["behaviour"]
    return found


def named_by_tests(name: str) -> set[str]:
    """The ids in every `requirement(...)` of the dialect's tests; read, not run, so that a partial run is no excuse."""
    return {found for file in (HERE / name).glob("test_*.py") for found in _requirements(ast.parse(file.read_text()))}


def _requirements(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "requirement":
            for argument in node.args:
                assert isinstance(argument, ast.Constant), "a requirement is named by a literal"
                yield str(argument.value)


def test_every_dialect_has_a_manifest() -> None:
    assert list(known_dialects()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_whole_and_unique(name: str) -> None:
    counted = Counter(entry["id"] for entry in behaviours(name))
    assert [each for each, count in counted.items() if count > 1] == []
    for entry in behaviours(name):
        assert entry["id"].startswith(f"{name}."), entry
        assert entry["kind"] in KINDS, entry
        assert entry["source"], entry
        assert entry["sentence"].endswith("."), entry
        assert entry.keys() <= {"id", "kind", "source", "sentence", "routes"}, entry


@pytest.mark.parametrize("name", NAMES)
def test_every_behaviour_has_a_test_and_every_test_a_behaviour(name: str) -> None:
    known = {entry["id"] for entry in behaviours(name)}
    named = named_by_tests(name)
    assert known - named == set(), "behaviours without a test"
    assert named - known == set(), "tests of behaviours that the manifest does not know"


@pytest.mark.parametrize("name", NAMES)
async def test_every_route_is_a_behaviour_and_every_named_route_exists(name: str, house: Any, app: Any) -> None:
    async with house.client(app) as client:
        document = (await client.get(f"{load_dialect(name).docs_base}/openapi.json")).json()
    served = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations.keys() & METHODS
    }
    told = {route for entry in behaviours(name) for route in entry.get("routes", ())}
    assert served == told


@pytest.mark.parametrize("name", NAMES)
def test_every_extension_choice_and_route_is_documented_for_users(name: str) -> None:
    page = (HERE.parent.parent / "docs" / "dialects" / f"{name}.md").read_text()
    missing = {
        route
        for entry in behaviours(name)
        for route in entry.get("routes", ())
        if route.partition(" ")[2].replace("/v1alpha1/mem9s/{tenantID}", "").replace("/v1alpha2/mem9s", "") not in page
    }
    assert missing == set()
    assert {entry["source"] for entry in behaviours(name) if entry["kind"] == "extension"} <= set(page.split("`"))
