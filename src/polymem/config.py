"""Every setting in one table, and the only reader of the environment and of polymem.toml.

The fields of `Settings` are the table: name, type, default, limits and help stand together, and the documentation,
the command line and the checks are made from them. A value comes from the first place that has one: the command
line, a `POLYMEM_*` variable, `polymem.toml`, the default.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from polymem.engine.keys import MAX_SECRET_CHARACTERS, MIN_SECRET_CHARACTERS, is_plausible_secret
from polymem.errors import SettingsInvalid

PREFIX = "POLYMEM_"
CONFIG_VARIABLE = "POLYMEM_CONFIG"
CONFIG_FILE = "polymem.toml"
KNOWN_DIALECTS = ("mem9", "mnemoverse")
_MASK = "********"
_SIZE_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

Provisioning = Literal["open", "closed", "auto"]
IfMatch = Literal["strict", "advisory"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]


class Rejected(Exception):
    """The value does not fit its setting; the message says what would."""


class Origin(StrEnum):
    """Where a value comes from, strongest first."""

    FLAG = "command line"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


# --- readers: raw value (text of a flag or variable, or a TOML value) -> typed value -----------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """How a setting is read and written: `read` gives the typed value or raises `Rejected`."""

    name: str
    allowed: str
    read: Callable[[object], object]
    show: Callable[[Any], str] = str


def _integer(low: int, high: int) -> Kind:
    def read(raw: object) -> object:
        if isinstance(raw, bool) or not isinstance(raw, (int, str)):
            raise Rejected
        try:
            value = int(raw)
        except ValueError as error:
            raise Rejected from error
        if not low <= value <= high:
            raise Rejected
        return value

    return Kind("integer", f"a whole number from {low} to {high}", read)


def _number(name: str, high: float) -> Kind:
    def read(raw: object) -> object:
        if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
            raise Rejected
        try:
            value = float(raw)
        except ValueError as error:
            raise Rejected from error
        if not 0 <= value <= high:
            raise Rejected
        return value

    unit = "number" if name == "number" else f"number of {name}"
    return Kind(name, f"a {unit} from 0 to {high:g}", read, lambda value: f"{value:g}")


def _size(low: int) -> Kind:
    def read(raw: object) -> object:
        if isinstance(raw, bool) or not isinstance(raw, (int, str)):
            raise Rejected
        text = str(raw).strip()
        digits = text.rstrip("BGKMibgkm ")
        unit = _SIZE_UNITS.get(text[len(digits) :].strip().upper())
        if unit is None or not digits.isascii() or not digits.isdigit() or int(digits) * unit < low:
            raise Rejected
        return int(digits) * unit

    return Kind("size", f"a number of bytes, {low} or more, such as 1073741824 or 1GiB", read)


def _choice(*options: str) -> Kind:
    def read(raw: object) -> object:
        if raw not in options:
            raise Rejected
        return raw

    return Kind("choice", "one of " + ", ".join(options), read)


def _read_boolean(raw: object) -> object:
    if isinstance(raw, bool):
        return raw
    text = raw.strip().lower() if isinstance(raw, str) else ""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise Rejected


def _read_line(raw: object) -> object:
    if not isinstance(raw, str) or not raw.strip() or not raw.isprintable():
        raise Rejected
    return raw.strip()


def _read_secret(raw: object) -> object:
    if raw is None:
        return None
    if not isinstance(raw, str) or not is_plausible_secret(raw):
        raise Rejected
    return raw


def _read_optional_line(raw: object) -> object:
    return None if raw is None else _read_line(raw)


def _url_of(*schemes: str, allowed: str) -> Kind:
    """A URL, which may hold a password: what is shown of it is only where it points."""

    def read(raw: object) -> object:
        if raw is None:
            return None
        text = raw.strip() if isinstance(raw, str) else ""
        scheme, separator, place = text.partition("://")
        if scheme not in schemes or not separator or not place or not text.isprintable() or " " in text:
            raise Rejected
        return text

    return Kind("URL", allowed, read, without_secrets)


def without_secrets(url: str | None) -> str:
    """Where a URL points: no user, password or parameters; empty for none."""
    if url is None:
        return ""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("#")[0].rpartition("@")[2].partition("/")
    return f"{scheme}://{host}{slash}{path}"


def _masked(value: str | None) -> str:
    return "" if value is None else _MASK


def _read_path(raw: object) -> object:
    if isinstance(raw, Path):
        return raw.expanduser()
    if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
        raise Rejected
    return Path(raw).expanduser()


def _read_optional_path(raw: object) -> object:
    return None if raw is None else _read_path(raw)


def _list_of(kind: str, allowed: str, accepts: Callable[[str], bool]) -> Kind:
    def read(raw: object) -> object:
        parts = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
            raise Rejected
        names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if not all(accepts(name) for name in names):
            raise Rejected
        return names

    return Kind(kind, allowed, read, ",".join)


def _read_prefixes(raw: object) -> object:
    pairs: dict[object, object] = {}
    if isinstance(raw, Mapping):
        pairs.update(raw)
    elif isinstance(raw, str):
        for part in filter(None, (piece.strip() for piece in raw.split(","))):
            name, separator, prefix = part.partition("=")
            if not separator:
                raise Rejected
            pairs[name.strip()] = prefix.strip()
    else:
        raise Rejected
    if any(dialect not in KNOWN_DIALECTS or not _is_prefix(place) for dialect, place in pairs.items()):
        raise Rejected
    return MappingProxyType(cast("dict[str, str]", pairs))


def _is_prefix(text: object) -> bool:
    if not isinstance(text, str):
        return False
    body = text[1:].replace("/", "").replace("-", "").replace("_", "")
    return text.startswith("/") and not text.endswith("/") and "//" not in text and body.isascii() and body.isalnum()


def _is_origin(text: str) -> bool:
    scheme, separator, host = text.partition("://")
    return text == "*" or (scheme in {"http", "https"} and bool(separator and host) and "/" not in host)


_BOOLEAN = Kind("boolean", "true or false", _read_boolean, lambda value: "true" if value else "false")
_LINE = Kind("text", "one line of text", _read_line)
_SECRET = Kind(
    "secret",
    f"{MIN_SECRET_CHARACTERS} to {MAX_SECRET_CHARACTERS} letters, digits or any of -_.~+/=",
    _read_secret,
    _masked,
)
_SECRET_LINE = Kind("secret", "one line of text", _read_optional_line, _masked)
_OPTIONAL_LINE = Kind("text", "one line of text", _read_optional_line, lambda value: value or "")
_DATABASE_URL = _url_of("postgresql", "postgres", allowed="a URL such as postgresql://user:password@host:5432/database")
_BLOB_URL = _url_of("s3", allowed="a URL such as s3://bucket or s3://bucket/folder")
_ENDPOINT_URL = _url_of("http", "https", allowed="a URL such as https://storage.example.org:9000")
_PATH = Kind("path", "a path", _read_path)
_OPTIONAL_PATH = Kind("path", "a path", _read_optional_path, lambda value: "" if value is None else str(value))
_DIALECT_LIST = _list_of(
    "list", "a list of " + ", ".join(KNOWN_DIALECTS) + ", separated by commas", lambda name: name in KNOWN_DIALECTS
)
_ORIGIN_LIST = _list_of("list", "a list of origins such as https://app.example.org, or *", _is_origin)
_PREFIXES = Kind(
    "map",
    "pairs such as mem9=/apis/mem9, separated by commas (in the file a table); dialects: " + ", ".join(KNOWN_DIALECTS),
    _read_prefixes,
    lambda value: ",".join(f"{name}={prefix}" for name, prefix in sorted(value.items())),
)


# --- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table: what a setting is called, what it takes, and what it does."""

    name: str
    kind: Kind
    help: str
    default: str
    is_secret: bool

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command line option that sets it."""
        return "--" + self.name.replace("_", "-")


def _row(kind: Kind, text: str, *, shown: str | None = None, is_secret: bool = False) -> dict[str, object]:
    return {"kind": kind, "help": text, "shown": shown, "is_secret": is_secret}


def default_data_dir() -> Path:
    """The directory for this user's data by the XDG rules."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share") / "polymem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that an operator can choose. Every value has been checked against its row, however it was given."""

    data_dir: Path = field(
        default_factory=default_data_dir,
        metadata=_row(
            _PATH,
            "Directory of the embedded database, the key file and everything else that is stored.",
            shown="$XDG_DATA_HOME/polymem, else ~/.local/share/polymem",
        ),
    )
    database_url: str | None = field(
        default=None,
        metadata=_row(
            _DATABASE_URL,
            "PostgreSQL database that holds everything, instead of the embedded one in the data directory; any number "
            "of processes may share it. The option shows its password to everyone on the machine who lists processes; "
            "the variable and the file do not.",
            shown="none",
            is_secret=True,
        ),
    )
    database_connections: int = field(
        default=8, metadata=_row(_integer(1, 200), "Connections to PostgreSQL that this process opens at most.")
    )
    blob_url: str | None = field(
        default=None,
        metadata=_row(
            _BLOB_URL,
            "Bucket of an S3-compatible storage for uploaded files, instead of the data directory. Needed where "
            "processes do not share their data directory.",
            shown="none",
        ),
    )
    s3_endpoint: str | None = field(
        default=None, metadata=_row(_ENDPOINT_URL, "Address of the S3-compatible storage.", shown="that of Amazon S3")
    )
    s3_region: str | None = field(
        default=None, metadata=_row(_OPTIONAL_LINE, "Region of the bucket.", shown="that of the environment")
    )
    s3_access_key_id: str | None = field(
        default=None,
        metadata=_row(
            _OPTIONAL_LINE, "Access key of the S3-compatible storage.", shown="that of the machine or its environment"
        ),
    )
    s3_secret_access_key: str | None = field(
        default=None,
        metadata=_row(
            _SECRET_LINE,
            "Secret that belongs to `s3_access_key_id`. The option shows it to everyone on the machine who lists "
            "processes; the variable and the file do not.",
            shown="that of the machine or its environment",
            is_secret=True,
        ),
    )
    host: str = field(
        default="127.0.0.1",
        metadata=_row(_LINE, "Address to listen on; the default is reached from this machine only."),
    )
    port: int = field(
        default=8765,
        metadata=_row(
            _integer(0, 65535), "Port to listen on; 0 takes a free one, named by server.json in the data directory."
        ),
    )
    dialects: tuple[str, ...] = field(default=KNOWN_DIALECTS, metadata=_row(_DIALECT_LIST, "APIs that are served."))
    dialect_prefixes: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}),
        metadata=_row(_PREFIXES, "Path under which an API is served instead of its own.", shown="none"),
    )
    key: str | None = field(
        default=None,
        metadata=_row(
            _SECRET,
            "Secret of the first key instead of a random one; also what `write` and `recall` use. "
            "The option shows it to everyone on the machine who lists processes; the variable and the file do not.",
            shown="none",
            is_secret=True,
        ),
    )
    provisioning: Provisioning = field(
        default="auto",
        metadata=_row(
            _choice("open", "closed", "auto"),
            "Whether anyone may make a mem9 key without having one; auto: open when bound to loopback, else closed.",
        ),
    )
    mem9_if_match: IfMatch = field(
        default="strict",
        metadata=_row(
            _choice("strict", "advisory"),
            "What a stale If-Match does in the mem9 API: strict refuses it with 409, advisory overwrites.",
        ),
    )
    reset_enabled: bool = field(
        default=False,
        metadata=_row(
            _BOOLEAN,
            "Whether the mnemoverse API may delete all memories at once (DELETE /api/v1/memory/reset); "
            "off, that is answered 403.",
        ),
    )
    importance_threshold: float = field(
        default=0.1,
        metadata=_row(
            _number("number", 1),
            "The least importance with which the mnemoverse API keeps a memory; it answers that it filtered others.",
        ),
    )
    cors_origins: tuple[str, ...] = field(
        default=(),
        metadata=_row(_ORIGIN_LIST, "Origins whose pages may call the server from a browser.", shown="none"),
    )
    metrics_open_on_loopback: bool = field(
        default=True, metadata=_row(_BOOLEAN, "Whether /metrics answers callers from this machine without a key.")
    )
    log_level: LogLevel = field(
        default="info",
        metadata=_row(_choice("debug", "info", "warning", "error"), "The least severe messages that are logged."),
    )
    log_format: LogFormat = field(
        default="text",
        metadata=_row(_choice("json", "text"), "One JSON object per line, or lines for people; to standard error."),
    )
    model_dir: Path | None = field(
        default=None,
        metadata=_row(
            _OPTIONAL_PATH,
            "Directory of the embedding model's files, instead of the ones that come with polymem.",
            shown="none",
        ),
    )
    reader_threads: int = field(
        default=4, metadata=_row(_integer(1, 64), "Connections of the embedded database that read at the same time.")
    )
    encoder_threads: int = field(
        default=1, metadata=_row(_integer(1, 64), "Threads on which the embedding model computes.")
    )
    inline_chunks: int = field(
        default=4,
        metadata=_row(
            _integer(1, 64), "Chunks of a text that are embedded before a write is answered; a job embeds the others."
        ),
    )
    vector_memory_bytes: int = field(
        default=2 << 30,
        metadata=_row(
            _size(1 << 20),
            "Memory for vectors that the embedded database keeps ready for search; the least used are read again when "
            "needed.",
        ),
    )
    worker_concurrency: int = field(
        default=2,
        metadata=_row(
            _integer(0, 64),
            "Background jobs that run at the same time; 0 leaves them to other processes (`polymem work`).",
        ),
    )
    shutdown_grace_seconds: float = field(
        default=20.0, metadata=_row(_number("seconds", 3600), "How long a stop waits for requests and jobs in flight.")
    )

    def __post_init__(self) -> None:
        """Every value fits its row; else `SettingsInvalid` names the setting."""
        for row in TABLE:
            value = _checked(row, getattr(self, row.name), "the value given")
            object.__setattr__(self, row.name, value)


def _as_setting(column: "Field[Any]") -> Setting:
    kind: Kind = column.metadata["kind"]
    default = column.metadata["shown"]
    if default is None:
        default = kind.show(column.default if column.default is not MISSING else None)
    return Setting(
        name=column.name,
        kind=kind,
        help=column.metadata["help"],
        default=default,
        is_secret=column.metadata["is_secret"],
    )


TABLE: tuple[Setting, ...] = tuple(_as_setting(column) for column in fields(Settings))
_BY_NAME = {row.name: row for row in TABLE}


# --- sources ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, where each one came from, and the file that was read, if any."""

    settings: Settings
    origins: Mapping[str, str]
    config_file: Path | None

    def shown(self, row: Setting) -> str:
        """The value in force as text, a secret masked."""
        return row.kind.show(getattr(self.settings, row.name))


def load(
    flags: Mapping[str, object], *, config: Path | None = None, environment: Mapping[str, str] | None = None
) -> Loaded:
    """The settings from all sources; `flags` with the value None were not given.

    Raises `SettingsInvalid` naming the setting, its source and what is allowed, also for a name nobody knows.
    """
    variables = os.environ if environment is None else environment
    given = {name: value for name, value in flags.items() if value is not None}
    from_environment = _from_environment(variables)
    place, is_named = _config_place(given, from_environment, config, variables)
    from_file = _from_file(place, is_named=is_named)
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for row in TABLE:
        if row.name in given:
            raw, origin = given[row.name], f"{Origin.FLAG} ({row.flag})"
        elif row.name in from_environment:
            raw, origin = from_environment[row.name], f"{Origin.ENVIRONMENT} ({row.variable})"
        elif row.name in from_file:
            raw, origin = from_file[row.name], f"{Origin.FILE} ({place})"
        else:
            origins[row.name] = str(Origin.DEFAULT)
            continue
        values[row.name] = _checked(row, raw, origin)
        origins[row.name] = origin
    settings = Settings(**cast("dict[str, Any]", values))
    return Loaded(settings, MappingProxyType(origins), place if from_file else None)


def _checked(row: Setting, raw: object, origin: str) -> object:
    try:
        return row.kind.read(raw)
    except Rejected as error:
        told = _MASK if row.is_secret else repr(raw if not isinstance(raw, Path) else str(raw))
        message = f"setting {row.name}: {told} from {origin} is not allowed; allowed: {row.kind.allowed}"
        raise SettingsInvalid(message) from error


def _from_environment(variables: Mapping[str, str]) -> dict[str, str]:
    known = {row.variable: row.name for row in TABLE}
    found: dict[str, str] = {}
    for variable, value in variables.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in known:
            raise SettingsInvalid(
                f"unknown setting {variable} in the environment{_hint(variable, [*known, CONFIG_VARIABLE])}"
            )
        found[known[variable]] = value
    return found


def _config_place(
    flags: Mapping[str, object], from_environment: Mapping[str, str], config: Path | None, variables: Mapping[str, str]
) -> tuple[Path, bool]:
    """The file to read, and whether somebody named it (then it must be there and may name the data directory)."""
    if config is not None:
        return config.expanduser(), True
    if variables.get(CONFIG_VARIABLE):
        return Path(variables[CONFIG_VARIABLE]).expanduser(), True
    row = _BY_NAME["data_dir"]
    if row.name in flags:
        directory = _checked(row, flags[row.name], f"{Origin.FLAG} ({row.flag})")
    elif row.name in from_environment:
        directory = _checked(row, from_environment[row.name], f"{Origin.ENVIRONMENT} ({row.variable})")
    else:
        directory = default_data_dir()
    return cast("Path", directory) / CONFIG_FILE, False


def _from_file(place: Path, *, is_named: bool) -> dict[str, object]:
    try:
        found = tomllib.loads(place.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if is_named:
            raise SettingsInvalid(f"settings file {place}: there is no such file") from error
        return {}
    except OSError as error:
        raise SettingsInvalid(f"settings file {place}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"settings file {place}: not TOML: {error}") from error
    for name in found:
        if name not in _BY_NAME:
            raise SettingsInvalid(f"unknown setting {name} in {place}{_hint(name, list(_BY_NAME))}")
    if "data_dir" in found and not is_named:
        raise SettingsInvalid(f"setting data_dir: {place} stands in the data directory and cannot name another one")
    return found


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
