"""A handler's arguments: what its signature may name, and what comes of a request."""

from typing import Annotated, Any

import pytest
from fastapi import Query, Response
from pydantic import BaseModel
from starlette.datastructures import QueryParams

from polymem.http.kit.binding import Binding
from polymem.http.kit.faults import EdgeCode, EdgeError


class Asked(BaseModel):
    """A query with every shape of field."""

    word: str | None = None
    count: int = 1
    names: list[str] | None = None
    plain: list[int] = []


class Told(BaseModel):
    """A body."""

    text: str


class FakeRequest:
    """What a binding reads of a request."""

    def __init__(self, query: str = "", **path: str) -> None:
        self.query_params = QueryParams(query)
        self.path_params = path


class Handlers:
    """Handlers that give back what they were called with."""

    def __init__(self) -> None:
        self.got: dict[str, Any] = {}

    async def everything(
        self,
        request: FakeRequest,
        name: str,
        asked: Annotated[Asked, Query()],
        told: Told,
    ) -> Response:
        self.got = {"request": request, "name": name, "asked": asked, "told": told}
        return Response()

    async def optional(self, told: Told | None = None) -> Response:
        self.got = {"told": told}
        return Response()

    async def header(self, told: str) -> Response:
        raise NotImplementedError(told)

    async def two_bodies(self, one: Told, other: Told) -> Response:
        raise NotImplementedError(one, other)


async def called(binding: Binding, request: FakeRequest, body: Any) -> Response:
    return await binding.handler(**binding.arguments(request, body))


async def test_a_handler_gets_the_request_its_path_its_query_and_its_body() -> None:
    handlers, request = (
        Handlers(),
        FakeRequest("word=a&word=b&count=3&names=x&names=y&plain=4&other=5", name="7", more="8"),
    )
    await called(Binding(handlers.everything, frozenset({"name"}), FakeRequest), request, {"text": "hi"})
    asked = Asked(word="b", count=3, names=["x", "y"], plain=[4])
    assert handlers.got == {"request": request, "name": "7", "asked": asked, "told": Told(text="hi")}


async def test_a_query_that_says_nothing_gives_the_defaults() -> None:
    handlers = Handlers()
    binding = Binding(handlers.everything, frozenset({"name"}), FakeRequest)
    await called(binding, FakeRequest(name="7"), {"text": "hi"})
    assert handlers.got["asked"] == Asked()


@pytest.mark.parametrize(("body", "told"), [(None, None), ({"text": "hi"}, Told(text="hi"))])
async def test_an_optional_body_may_be_missing(body: Any, told: Told | None) -> None:
    handlers = Handlers()
    await called(Binding(handlers.optional, frozenset(), FakeRequest), FakeRequest(), body)
    assert handlers.got == {"told": told}


@pytest.mark.parametrize(
    ("query", "body", "field"), [("count=many", {"text": "hi"}, "count"), ("", {"text": 5}, "text"), ("", None, "body")]
)
def test_what_is_not_as_its_model_says_is_a_mismatch_that_names_its_place(query: str, body: Any, field: str) -> None:
    binding = Binding(Handlers().everything, frozenset({"name"}), FakeRequest)
    with pytest.raises(EdgeError) as raised:
        binding.arguments(FakeRequest(query, name="7"), body)
    assert raised.value.code is EdgeCode.SCHEMA_MISMATCH
    assert [violation.field for violation in raised.value.violations] == [field]


@pytest.mark.parametrize("name", ["header", "two_bodies"])
def test_a_handler_that_asks_for_anything_else_is_refused_when_its_route_is_made(name: str) -> None:
    with pytest.raises(TypeError, match="is no request"):
        Binding(getattr(Handlers(), name), frozenset(), FakeRequest)
