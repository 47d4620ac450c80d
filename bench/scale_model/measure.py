"""What memories cost in PostgreSQL, measured: an empty database is filled with made rows and its parts are weighed.

Rows go to the tables as the schema says, in batches of one transaction, the tenants in turn. Words, vectors and
tokens are drawn from a seed: words by Zipf's law, vectors around centres, as many of each as the profile says.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import median

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector, SparseVector
from pgvector.psycopg import register_vector
from psycopg import sql

from bench.scale_model.figures import LONG, SHORT, Profile
from polymem.domain.concepts import content_key
from polymem.domain.model import ModelIdentity, SpaceId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.storage.postgres.dense import DenseQuery, graph_statement
from polymem.storage.postgres.driver import SESSION
from polymem.storage.postgres.graphs import Graph
from polymem.storage.rows import insert_into
from polymem.storage.terms import pack_terms

_DIMENSION = 384
_TOKEN_DIMENSION = 64
_CENTRES = 2000
_VOCABULARY = 120_000
_WEIGHT_DIMENSIONS = 1_000_000_000
_PER_COMMIT = 250
_AT = 1_760_000_000_000_000
_QUERIES = 11
_WRITES = 101
_PROFILES = {"short": SHORT, "long": LONG}
_TABLES = ("memories", "index_entries", "chunks", "term_counts", "audit_log")

_MEMORY_COLUMNS = (
    "tenant_id, memory_id, space_id, memory_type, state, session_id, turn_role, turn_seq, content_type, identity, "
    "created_by, derived_from, version, revision, created_at, updated_at, change_no, role, importance, valence, "
    "content_key, supersedes, concepts, tags, content"
)
_ENTRY_COLUMNS = (
    "tenant_id, memory_id, space_id, memory_type, state, session_id, tags, created_at, updated_at, turn_role, "
    "turn_seq, length, model_no, is_complete, traits, weights, codes, counts"
)
_CHUNK_COLUMNS = (
    "tenant_id, memory_id, chunk_no, tenant_no, model_no, space_id, memory_type, state, session_id, tags, created_at, "
    "updated_at, start_at, end_at, embedding, token_vectors"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Bytes of one relation: a table, what it keeps beside it, or an index."""

    table: str
    part: str
    size: int


@dataclass(frozen=True, slots=True)
class _Place:
    """A tenant's ids."""

    number: int

    @property
    def tenant(self) -> str:
        return _uuid(1, self.number)

    @property
    def space(self) -> str:
        return _uuid(2, self.number)

    @property
    def user(self) -> str:
        return _uuid(3, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to fill an empty database with, and what to measure then.

    graphs: for each number, so many chunks of one tenant are indexed by HNSW and searched exactly. partial: for each
    number, writes and plans while so many graphs of other tenants stand on all parts of `chunks` together, spread
    evenly. is_undivided: `chunks` is one table, as it was before it had parts.
    """

    profile: str
    memories: int
    tenants: int
    graphs: Sequence[int]
    partial: Sequence[int]
    is_undivided: bool = False
    seed: int = 0


def measure(url: str, order: Order) -> None:
    """The database at `url`, which must be empty, holds the rows; the tables of bytes and seconds are printed."""
    chance = np.random.default_rng(order.seed)
    with psycopg.connect(url) as connection:
        _prepare(connection)
        if order.is_undivided:
            _undivide(connection)
        began, log_from = time.perf_counter(), _log_position(connection)
        places = [_Place(number + 1) for number in range(order.tenants)]
        _accounts(connection, places)
        _fill(connection, _PROFILES[order.profile], places, order.memories, chance)
        logged = _log_position(connection) - log_from
        seconds = time.perf_counter() - began
        connection.commit()
        connection.autocommit = True
        for table in _TABLES:
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
        print(f"{order.memories} {order.profile} memories, {order.tenants} tenants, filled in {seconds:.0f} s")
        _print_sizes(_weigh(connection), order.memories, logged)
        for rows in order.graphs:
            _print_graph(connection, rows, chance)
        for count in order.partial:
            _print_partial(connection, count)


def _prepare(connection: psycopg.Connection) -> None:
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    folder = resources.files("polymem.storage.postgres") / "migrations"
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".sql"):
            connection.execute(file.read_bytes())
    connection.execute(
        "INSERT INTO models (name, revision, dimension, token_dimension) VALUES ('made', '1', %s, %s)",
        (_DIMENSION, _TOKEN_DIMENSION),
    )
    for name, value in SESSION.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    connection.commit()
    register_vector(connection)


def _undivide(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE undivided (LIKE chunks INCLUDING ALL) WITH (toast_tuple_target = 128)")
    connection.execute("DROP TABLE chunks")
    connection.execute("ALTER TABLE undivided RENAME TO chunks")
    connection.commit()


def _accounts(connection: psycopg.Connection, places: Sequence[_Place]) -> None:
    for place in places:
        connection.execute(
            "INSERT INTO tenants (tenant_id, tenant_no, name, plan, is_active, created_at) "
            "VALUES (%s, %s, 'made', 'self-hosted', true, %s)",
            (place.tenant, place.number, _AT),
        )
        connection.execute(
            "INSERT INTO spaces VALUES (%s, %s, 'personal', 'general', false, %s)", (place.tenant, place.space, _AT)
        )
    connection.commit()


# --- rows ------------------------------------------------------------------------------------------------


class _Words:
    """Texts of words drawn by Zipf's law."""

    def __init__(self, chance: np.random.Generator) -> None:
        shares = 1 / np.arange(1, _VOCABULARY + 1) ** 0.95
        self._sums = np.cumsum(shares / shares.sum())
        self._chance = chance

    def draw(self, profile: Profile) -> list[str]:
        """As many terms as the profile's texts have, about as many of them distinct."""
        distinct = np.unique(np.searchsorted(self._sums, self._chance.random(profile.distinct_terms)))
        missing = profile.distinct_terms - len(distinct)
        more = self._chance.integers(0, _VOCABULARY, missing)
        words = [f"word{number}" for number in (*distinct.tolist(), *more.tolist())]
        repeats = profile.terms - profile.distinct_terms
        return words + [words[at] for at in self._chance.integers(0, len(words), repeats).tolist()]


class _Vectors:
    """Unit vectors around centres."""

    def __init__(self, chance: np.random.Generator) -> None:
        self.chance = chance
        self._centres = chance.standard_normal((_CENTRES, _DIMENSION)).astype(np.float32)

    def draw(self) -> HalfVector:
        """One more."""
        noise = self.chance.standard_normal(_DIMENSION).astype(np.float32)
        vector = self._centres[self.chance.integers(_CENTRES)] + 0.8 * noise
        return HalfVector(vector / np.linalg.norm(vector))


def _fill(
    connection: psycopg.Connection,
    profile: Profile,
    places: Sequence[_Place],
    memories: int,
    chance: np.random.Generator,
) -> None:
    words = _Words(chance)
    vectors = _Vectors(chance)
    for start in range(0, memories, _PER_COMMIT):
        place = places[(start // _PER_COMMIT) % len(places)]
        numbers = range(start, min(start + _PER_COMMIT, memories))
        terms = {number: words.draw(profile) for number in numbers}
        with connection.cursor() as cursor:
            _copy_memories(cursor, profile, place, terms)
            _copy_entries(cursor, place, terms)
            _copy_chunks(cursor, profile, place, numbers, vectors)
            _count_terms(cursor, place, terms)
        connection.commit()


def _copy_memories(cursor: psycopg.Cursor, profile: Profile, place: _Place, terms: dict[int, list[str]]) -> None:
    with cursor.copy(f"COPY memories ({_MEMORY_COLUMNS}) FROM STDIN") as copy:
        for number, drawn in terms.items():
            text = " ".join(drawn * (1 + profile.text_bytes // 20))[: profile.text_bytes]
            session, seq = _turn(number)
            kind, role = ("session", "user") if session else ("insight", None)
            copy.write_row(
                (place.tenant, _uuid(4, number), place.space, kind, "active", session, role, seq)
                + (("text", f"{number:064x}") if session else (None, None))
                + (place.user, "[]", 1, 1, _AT + number, _AT + number, number, "episode", 0.5, 0.0)
                + (content_key(f"{number} {text}"), "[]", "[]", "[]", text)
            )
    with cursor.copy("COPY audit_log FROM STDIN") as copy:
        for number in terms:
            target = _uuid(4, number)
            copy.write_row(
                (place.tenant, number, 0, _AT, place.user, _uuid(5, 1), "memory.write", target, _uuid(6, number))
            )


def _copy_entries(cursor: psycopg.Cursor, place: _Place, terms: dict[int, list[str]]) -> None:
    with cursor.copy(f"COPY index_entries ({_ENTRY_COLUMNS}) FROM STDIN WITH (FORMAT BINARY)") as copy:
        kinds = ["text"] * 6 + ["text[]", "int8", "int8", "text", "int8", "int4", "int4", "bool", "bytea"]
        copy.set_types([*kinds, "sparsevec", "int8[]", "bytea"])
        for number, drawn in terms.items():
            codes, counts = pack_terms(drawn)
            found = np.frombuffer(codes, "<i8")
            weights = SparseVector({code % _WEIGHT_DIMENSIONS: 0.5 for code in found.tolist()}, _WEIGHT_DIMENSIONS)
            session, seq = _turn(number)
            kind, role = ("session", "user") if session else ("insight", None)
            copy.write_row(
                (
                    *(place.tenant, _uuid(4, number), place.space, kind, "active", session, []),
                    *(_AT + number, _AT + number, role, seq, len(drawn), 1, True, bytes(10)),
                    *(weights, sorted(found.tolist()), counts),
                )
            )


def _copy_chunks(cursor: psycopg.Cursor, profile: Profile, place: _Place, numbers: range, vectors: _Vectors) -> None:
    chance = vectors.chance
    with cursor.copy(f"COPY chunks ({_CHUNK_COLUMNS}) FROM STDIN WITH (FORMAT BINARY)") as copy:
        kinds = ["text", "text", "int4", "int4", "int4", "text", "text", "text", "text", "text[]", "int8", "int8"]
        copy.set_types([*kinds, "int4", "int4", "halfvec", "bytea"])
        for number, chunk, tokens in _chunks(profile, numbers, chance):
            session, _ = _turn(number)
            kind = "session" if session else "insight"
            copy.write_row(
                (
                    *(place.tenant, _uuid(4, number), chunk, place.number, 1, place.space, kind, "active", session, []),
                    *(_AT + number, _AT + number, 0, profile.text_bytes),
                    *(vectors.draw(), chance.bytes(tokens * _TOKEN_DIMENSION)),
                )
            )


def _chunks(profile: Profile, numbers: range, chance: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Memory, chunk and tokens of each chunk: on the average as many as the profile says."""
    whole = int(profile.chunks)
    for number in numbers:
        count = whole + int(chance.random() < profile.chunks - whole)
        for chunk in range(count):
            yield number, chunk, round(profile.tokens / profile.chunks)


def _count_terms(cursor: psycopg.Cursor, place: _Place, terms: dict[int, list[str]]) -> None:
    counted: Counter[int] = Counter()
    for drawn in terms.values():
        counted.update(np.frombuffer(pack_terms(drawn)[0], "<i8").tolist())
    cursor.execute(
        "INSERT INTO term_counts SELECT %s, * FROM unnest(%s::bigint[], %s::int[]) "
        "ON CONFLICT (tenant_id, code) DO UPDATE SET documents = term_counts.documents + excluded.documents",
        (place.tenant, list(counted), list(counted.values())),
    )


def _turn(number: int) -> tuple[str | None, int | None]:
    """Session and place of a memory: every second one is a turn."""
    return (_uuid(7, number // 40), number % 40 // 2) if number % 2 else (None, None)


def _uuid(kind: int, number: int) -> str:
    return f"0199{kind:04x}-0000-7000-8000-{number:012x}"


# --- figures ---------------------------------------------------------------------------------------------


def _log_position(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    return int(row[0]) if row else 0


def _weigh(connection: psycopg.Connection) -> list[Weighed]:
    """The parts of a divided table count as one, and so do those of its indexes."""
    found = []
    for table in _TABLES:
        names = _parts(connection, table)
        row = connection.execute(
            "SELECT sum(pg_relation_size(c.oid))::bigint, "
            "sum(coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))::bigint "
            "FROM pg_class c WHERE c.oid = ANY(%s::regclass[])",
            (names,),
        ).fetchone()
        if row:
            found += [Weighed(table=table, part="rows", size=row[0]), Weighed(table=table, part="beside", size=row[1])]
        indexes = connection.execute(
            "SELECT coalesce(pg_partition_root(indexrelid), indexrelid)::regclass::text AS name, "
            "sum(pg_relation_size(indexrelid))::bigint FROM pg_index "
            "WHERE indrelid = ANY(%s::regclass[]) GROUP BY name ORDER BY name",
            (names,),
        )
        found += [Weighed(table=table, part=name, size=size) for name, size in indexes]
    return found


def _parts(connection: psycopg.Connection, table: str) -> list[str]:
    """The tables that hold the rows: the table's parts, or itself."""
    found = connection.execute(
        "SELECT relid::text FROM pg_partition_tree(%s::regclass) WHERE isleaf ORDER BY relid::oid", (table,)
    )
    return [name for (name,) in found] or [table]


def _print_sizes(parts: Sequence[Weighed], memories: int, logged: int) -> None:
    print("| table | part | bytes a memory |\n|---|---|---|")
    for part in parts:
        print(f"| {part.table} | {part.part} | {part.size / memories:.0f} |")
    print(f"| all | | {sum(part.size for part in parts) / memories:.0f} |")
    print(f"| write-ahead log | while filling | {logged / memories:.0f} |")


def _print_graph(connection: psycopg.Connection, rows: int, chance: np.random.Generator) -> None:
    """One tenant of so many chunks: the graph over its vectors, and the exact scan that does without."""
    connection.execute("DROP TABLE IF EXISTS one_tenant")
    connection.execute("CREATE TABLE one_tenant (LIKE chunks INCLUDING STORAGE INCLUDING INDEXES)")
    connection.execute("ALTER TABLE one_tenant SET (toast_tuple_target = 128)")
    connection.execute(sql.SQL("INSERT INTO one_tenant SELECT * FROM chunks LIMIT {}").format(rows))
    connection.execute("UPDATE one_tenant SET tenant_no = 1, tenant_id = %s", (_Place(1).tenant,))
    connection.execute("VACUUM (FULL, ANALYZE) one_tenant")
    scans = [_exact_seconds(connection, chance) for _ in range(_QUERIES)]
    connection.execute("SET maintenance_work_mem = '1GB'")
    connection.execute("SET max_parallel_maintenance_workers = 0")
    began = time.perf_counter()
    connection.execute(
        "CREATE INDEX one_graph ON one_tenant USING hnsw ((embedding::halfvec(384)) halfvec_cosine_ops) "
        "WITH (m = 16, ef_construction = 128) WHERE tenant_no = 1"
    )
    seconds = time.perf_counter() - began
    row = connection.execute("SELECT pg_relation_size('one_graph'::regclass)").fetchone()
    size = row[0] if row else 0
    print(
        f"{rows} chunks: exact scan p50 {median(scans) * 1000:.1f} ms; graph {size / rows:.0f} bytes a chunk, "
        f"built in {seconds:.1f} s by one process ({seconds / rows * 1e6:.0f} us a chunk)"
    )


def _exact_seconds(connection: psycopg.Connection, chance: np.random.Generator) -> float:
    vector = HalfVector(chance.standard_normal(_DIMENSION).astype(np.float32))
    began = time.perf_counter()
    connection.execute(
        "SELECT memory_id FROM one_tenant WHERE tenant_id = %s "
        "ORDER BY embedding <=> (SELECT %s::text::halfvec) LIMIT 100",
        (_Place(1).tenant, vector.to_text()),
    ).fetchall()
    return time.perf_counter() - began


def _print_partial(connection: psycopg.Connection, count: int) -> None:
    """What one more row and one plan cost a tenant while so many empty graphs of tenants without rows stand beside."""
    parts = _parts(connection, "chunks")
    row = connection.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'partial_graph_%'").fetchone()
    for number in range(row[0] if row else 0, count):
        connection.execute(
            sql.SQL(
                "CREATE INDEX {} ON {} USING hnsw ((embedding::halfvec(384)) halfvec_cosine_ops) "
                "WHERE tenant_no = {} AND model_no = 1"
            ).format(
                sql.Identifier(f"partial_graph_{number}"),
                sql.Identifier(parts[number % len(parts)]),
                sql.Literal(1_000_000 + number),
            )
        )
    place = _Place(1)
    read = sql.SQL("SELECT {} FROM chunks WHERE tenant_id = %s").format(sql.SQL(_CHUNK_COLUMNS))
    added = connection.execute(read, (place.tenant,)).fetchone()
    if added is None:
        raise ValueError("the first tenant has no chunks")
    # How long the disk takes to confirm is the same with any number of graphs, and varies more than they add.
    connection.execute("SET synchronous_commit = off")
    insert = insert_into("chunks", tuple(_CHUNK_COLUMNS.split(", ")), mark="%s")
    writes, plans = [], []
    for turn in range(_WRITES):
        began = time.perf_counter()
        connection.execute(insert, (added[0], f"added{count}-{turn}", *added[2:]))
        writes.append(time.perf_counter() - began)
        began = time.perf_counter()
        statement, parameters = _question(place, np.asarray(added[-2].to_numpy(), dtype=np.float32))
        connection.execute(f"EXPLAIN {statement}", parameters)
        plans.append(time.perf_counter() - began)
    print(
        f"{count} other graphs on {len(parts)} tables: one more row p50 {median(writes) * 1000:.2f} ms, "
        f"a plan {median(plans) * 1000:.2f} ms"
    )


def _question(place: _Place, vector: NDArray[np.float32]) -> tuple[str, tuple[object, ...]]:
    """The statement of the dense arm for a tenant that has a graph, which names `chunks` twice."""
    query = DenseQuery(
        tenant_id=TenantId(place.tenant),
        vector=vector,
        model=ModelIdentity(name="made", revision="1", dimension=_DIMENSION, token_dimension=_TOKEN_DIMENSION),
        where=MemoryFilter(spaces=frozenset({SpaceId(place.space)})),
        limit=100,
    )
    return graph_statement(query, Graph(tenant_no=place.number, model_no=1, dimension=_DIMENSION), rows=264)
