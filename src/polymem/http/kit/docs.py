"""A dialect's OpenAPI document and a page that shows it, without anything from another origin."""

import asyncio
import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from polymem.http.kit.dialect import Dialect
from polymem.http.kit.requests import state_of
from polymem.http.kit.responses import json_body

_PAGE = resources.files(__package__).joinpath("docs.html").read_bytes()


def _hash_of(tag: str) -> str:
    inline = re.search(rf"<{tag}>(.*?)</{tag}>".encode(), _PAGE, re.DOTALL)
    content = inline.group(1) if inline else b""
    return "'sha256-" + base64.b64encode(hashlib.sha256(content).digest()).decode() + "'"


_PAGE_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}


_METHODS = ("get", "put", "post", "patch", "delete")
_SCHEMES: dict[str, dict[str, str]] = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


def _with_keys(document: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """The document, saying which routes need a key and how it is sent."""
    document.setdefault("components", {})["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        has_key = dialect.key_in_path is not None and dialect.key_in_path.match(path) is not None
        for method in _METHODS:
            is_open = (method.upper(), path) in dialect.open_routes
            if method in operations and not has_key and not is_open:
                operations[method]["security"] = [{name: []} for name in _SCHEMES]
    return document


def add_docs(app: FastAPI, dialect: Dialect) -> None:
    """The application answers `openapi.json` and `docs` under the dialect's docs base, to anybody."""

    @cache
    def document() -> bytes:
        return json_body(_with_keys(app.openapi(), dialect))

    async def openapi(request: Request) -> Response:
        state_of(request).route = f"{dialect.docs_base}/openapi.json"
        # Made when it is first asked for: it costs more than all other parts of a dialect together.
        return Response(
            await asyncio.to_thread(document), media_type="application/json", headers={"Cache-Control": "no-cache"}
        )

    async def page(request: Request) -> Response:
        state_of(request).route = f"{dialect.docs_base}/docs"
        return Response(_PAGE, media_type="text/html", headers=_PAGE_HEADERS)

    app.router.routes.append(Route(f"{dialect.docs_base}/openapi.json", openapi, methods=["GET"]))
    app.router.routes.append(Route(f"{dialect.docs_base}/docs", page, methods=["GET"]))
