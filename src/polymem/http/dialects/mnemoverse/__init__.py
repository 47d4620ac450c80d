"""The mnemoverse dialect: memories that learn from outcomes, under `/api/v1`."""

from polymem.http.auth import agent_in_headers
from polymem.http.dialects.mnemoverse.errors import ERRORS
from polymem.http.dialects.mnemoverse.routes import BASE, NAME, OPEN_ROUTES, add_routes
from polymem.http.kit import MIB, Dialect

DIALECT = Dialect(
    name=NAME,
    title="polymem: mnemoverse API",
    description=(
        "Atoms of memory that learn from outcomes, and the associations between their concepts. Send your key as "
        "X-Api-Key or as a bearer token."
    ),
    paths=(BASE,),
    docs_base=BASE,
    add_routes=add_routes,
    errors=ERRORS,
    open_routes=OPEN_ROUTES,
    body_limit=16 * MIB,
    agent_of=agent_in_headers,
    always_tells_rate=True,
)
