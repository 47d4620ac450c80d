"""Who calls: keys in headers and paths, where the caller sits, and how keys are kept out of logs."""

import ipaddress
import re
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import Scope

from polymem.errors import InvalidInput

AGENT_HEADER = "X-Mnemo-Agent-Id"
MAX_AGENT_CHARACTERS = 100
_FORWARDING_HEADERS = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
)
_LOCAL_NAMES = frozenset({"localhost", "localhost."})
# The last shape is a random UUID, which mem9's provisioning gives as a key; our own ids are UUIDs of version 7.
_KEY_SHAPES = re.compile(
    r"pm_[A-Za-z0-9_-]{8,}|mxk_[0-9a-fA-F]{8,}|mk_live_[A-Za-z0-9]{8,}|chain_[A-Za-z0-9_-]{8,}"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
)
REDACTED = "***"


def key_in_headers(headers: Headers) -> str | None:
    """The key a request carries, whichever dialect's header it uses; None without one.

    `X-API-Key` (in any case) counts before `Authorization: Bearer`.
    """
    key = headers.get("x-api-key", "").strip()
    if key:
        return key
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return None


def agent_in_headers(headers: Headers) -> str | None:
    """The agent a request names. Raises `InvalidInput` for a name that is not short, printable UTF-8."""
    try:
        agent = headers.get(AGENT_HEADER, "").encode("latin-1").decode("utf-8").strip()
    except UnicodeDecodeError:
        raise InvalidInput(AGENT_HEADER, "must be UTF-8") from None
    if len(agent) > MAX_AGENT_CHARACTERS:
        raise InvalidInput(AGENT_HEADER, f"too long (max {MAX_AGENT_CHARACTERS})")
    if not agent.isprintable():
        raise InvalidInput(AGENT_HEADER, "must not contain control characters")
    return agent or None


def is_forwarded(headers: Headers) -> bool:
    """True when a proxy says that it passes the request on."""
    return any(name in headers for name in _FORWARDING_HEADERS)


def _is_loopback_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_from_loopback(scope: Scope) -> bool:
    """True when the connection comes from this machine and nothing says that it was forwarded."""
    client = scope.get("client")
    return client is not None and _is_loopback_address(client[0]) and not is_forwarded(Headers(scope=scope))


def names_loopback_host(headers: Headers) -> bool:
    """True when `Host`, and `Origin` if there is one, name this machine: a web page cannot pose as a local caller."""
    hosts = [headers.get("host", "")]
    if "origin" in headers:
        hosts.append(headers["origin"].rpartition("//")[2])
    return all(_is_local_name(host) for host in hosts)


def _is_local_name(host: str) -> bool:
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    return name in _LOCAL_NAMES or _is_loopback_address(name)


def redacted_path(path: str, key_in_path: re.Pattern[str] | None) -> str:
    """The path without keys: the part `key_in_path` calls `key`, and whatever has a key's shape, become `***`."""
    decoded = unquote(path)
    if key_in_path is not None and (match := key_in_path.match(decoded)) is not None:
        start, end = match.span("key")
        decoded = decoded[:start] + REDACTED + decoded[end:]
    return _KEY_SHAPES.sub(REDACTED, decoded)
