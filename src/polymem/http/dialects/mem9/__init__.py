"""The mem9 dialect: `/v1alpha2` with the key in a header, `/v1alpha1/mem9s/{tenantID}` with the key in the path."""

from polymem.http.auth import agent_in_headers
from polymem.http.dialects.mem9.errors import ERRORS, path_key_error
from polymem.http.dialects.mem9.routes import KEY_IN_PATH, NAME, OPEN_ROUTES, PATHS, add_routes
from polymem.http.kit import MIB, Dialect

DIALECT = Dialect(
    name=NAME,
    title="polymem: mem9 API",
    description=(
        "Memories, imports and captured conversations. Send your key as X-API-Key or as a bearer token; "
        "under /v1alpha1 it stands in the path."
    ),
    paths=PATHS,
    docs_base="/v1alpha2",
    add_routes=add_routes,
    errors=ERRORS,
    open_routes=OPEN_ROUTES,
    body_limit=16 * MIB,
    key_in_path=KEY_IN_PATH,
    agent_of=agent_in_headers,
    path_key_error=path_key_error,
)
