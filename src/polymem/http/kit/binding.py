"""The arguments of a handler, made of an admitted request without the framework's general machinery.

A handler takes what its signature names: the request itself, texts of its path, at most one model of the query, at most
one model of the body, which may be optional. The framework reads the same signature for the OpenAPI document; solving
it anew for each request cost more than the rest of the edge.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import Response, params
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams

from polymem.domain.model import JsonValue
from polymem.http.kit.validation import schema_mismatch

_UNIONS = frozenset({typing.Union, UnionType})
Handler = Callable[..., Awaitable[Response]]


class Binding:
    """How one handler is called; made once for each route."""

    def __init__(self, handler: Handler, path_names: frozenset[str], request_type: type) -> None:
        self.handler = handler
        self._request: str | None = None
        self._path: list[str] = []
        self._query: tuple[str, type[BaseModel], frozenset[str]] | None = None
        self._body: tuple[str, type[BaseModel]] | None = None
        self._needs_body = True
        hints = get_type_hints(handler, include_extras=True)
        for name in inspect.signature(handler).parameters:
            self._add(name, hints[name], path_names, request_type)

    def _add(self, name: str, hint: Any, path_names: frozenset[str], request_type: type) -> None:
        kind, marks, is_optional = _plain(hint)
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        if kind is request_type:
            self._request = name
        elif name in path_names and kind is str:
            self._path.append(name)
        elif is_model and any(isinstance(mark, params.Query) for mark in marks) and self._query is None:
            self._query = (name, kind, _lists_of(kind))
        elif is_model and not marks and self._body is None:
            self._body, self._needs_body = (name, kind), not is_optional
        else:
            message = f"{self.handler}: {name} is no request, text of the path, model of the query or of the body"
            raise TypeError(message)

    def arguments(self, request: Any, body: JsonValue) -> dict[str, Any]:
        """What the handler is called with. Raises `EdgeError` for a query or a body that is not as its model says."""
        arguments: dict[str, Any] = {name: request.path_params[name] for name in self._path}
        if self._request is not None:
            arguments[self._request] = request
        if self._query is not None:
            name, model, lists = self._query
            arguments[name] = _valid(model, _asked(request.query_params, lists), "query")
        if self._body is not None:
            name, model = self._body
            arguments[name] = _valid(model, body, "body") if self._needs_body or body is not None else None
        return arguments


def _plain(hint: Any) -> tuple[Any, tuple[object, ...], bool]:
    """The type of a parameter without what stands around it, the marks that stood there, and whether it may be None."""
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        return kind, tuple(marks), False
    kinds = [each for each in get_args(hint) if each is not type(None)]
    if get_origin(hint) in _UNIONS and len(kinds) == 1:
        return kinds[0], (), True
    return hint, (), False


def _lists_of(model: type[BaseModel]) -> frozenset[str]:
    """The fields that take every value of their name."""
    return frozenset(name for name, field in model.model_fields.items() if _takes_list(field.annotation))


def _takes_list(kind: Any) -> bool:
    if get_origin(kind) in _UNIONS:
        return any(_takes_list(each) for each in get_args(kind))
    return get_origin(kind) is list


def _asked(query: QueryParams, lists: frozenset[str]) -> Mapping[str, Any]:
    """The parameters of a query; of one that is given twice the last counts, unless its field is a list."""
    asked: dict[str, Any] = dict(query)
    for name in lists & asked.keys():
        asked[name] = query.getlist(name)
    return asked


def _valid(model: type[BaseModel], value: object, part: str) -> BaseModel:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = [{**each, "loc": (part, *each["loc"])} for each in error.errors(include_url=False)]
    raise schema_mismatch(found)
