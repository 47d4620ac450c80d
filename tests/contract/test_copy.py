"""What one database holds is copied to another of either kind: whole, once, compared, and nothing else is touched."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from copies import MODELS, End, PostgresEnd, SqliteEnd, copied, filled, put_file, rows_of
from polymem.domain.model import BlobId, Job, JobKind, JobState, Plan, TenantId
from polymem.domain.query import ListOrder, MemoryFilter
from polymem.engine import copy as engine_copy
from polymem.engine.copy import Copied, CopyResult, Difference, Differs, Progress, Stage
from polymem.errors import Conflict, DataDirectoryLocked, SettingsInvalid, StorageDamaged, StorageUnavailable
from polymem.ports.changes import AddJob, DeleteMemory, IndexEntry, PutMemory
from polymem.ports.copy import (
    MEMORIES,
    PLANS,
    TENANT_TABLES,
    CopiedTable,
    CopyRow,
    CopyTarget,
    DestinationState,
    Mark,
    Page,
    TenantExtent,
    Unused,
    row_hash,
)
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage
from polymem.storage.blobs.filesystem import FilesystemBlobs
from polymem.storage.copies import EMPTIED_TABLES
from polymem.storage.sqlite.copy import SqliteCopySource
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage
from postgres import PostgresServer
from samples import AT, account_of, job_of, memory_of

KINDS = ("sqlite", "postgres")
NewEnd = Callable[[str], End]


@pytest.fixture
def new_end(tmp_path: Path, request: pytest.FixtureRequest) -> NewEnd:
    """Makes databases of either kind, with nothing in them."""
    made = 0

    def one(kind: str) -> End:
        nonlocal made
        made += 1
        if kind == "sqlite":
            return SqliteEnd(tmp_path / f"end-{made}")
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return PostgresEnd(server.new_database(), tmp_path / f"files-{made}")

    return one


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_copy, "BATCH_ROWS", 10)
    for module in ("sqlite", "postgres"):
        monkeypatch.setattr(f"polymem.storage.{module}.copy.PIECE_ROWS", 4)


pairs = pytest.mark.parametrize(("first", "second"), [(one, other) for one in KINDS for other in KINDS])
each_kind = pytest.mark.parametrize("kind", KINDS)


# --- whole -----------------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_copy_holds_the_same_rows_and_so_does_the_copy_back(
    new_end: NewEnd, first: str, second: str, seed: int
) -> None:
    source, destination, back = new_end(first), new_end(second), new_end(first)
    await filled(source, seed)
    before = await rows_of(source)

    result = await copied(source, destination)
    assert await rows_of(destination) == before
    await copied(destination, back)

    assert await rows_of(back) == before
    assert await rows_of(source) == before
    assert result == Copied(
        tenants=2,
        memories=sum(len(rows) for (_, table), rows in before.items() if table == "memories"),
        rows=sum(map(len, before.values())),
        files=0,
        is_resumed=False,
    )
    assert min(len(rows) for (_, table), rows in before.items() if table != "tenants") > 0


@pairs
async def test_a_copy_answers_as_its_source_does(new_end: NewEnd, first: str, second: str) -> None:
    source, destination = new_end(first), new_end(second)
    accounts = await filled(source, 4)
    await copied(source, destination)

    told = [await _answers(end, accounts) for end in (source, destination)]

    assert told[0] == told[1]


@pairs
async def test_a_copy_passes_every_check_and_goes_on_counting(new_end: NewEnd, first: str, second: str) -> None:
    source, destination = new_end(first), new_end(second)
    account, other = await filled(source, 5)
    await copied(source, destination)

    storage = await destination.storage()
    try:
        assert [finding for finding in await storage.check() if not finding.is_ok] == []
        store = storage.tenant(account.tenant.id)
        before = await store.change_no()
        await store.commit(
            [PutMemory(memory=memory_of(account, "new"), index=IndexEntry(terms=("new",), embedding=None))], now=AT
        )
        await storage.directory.create_account(account_of("newcomer"))
        await _add_job(storage, other, "last")
        assert await store.change_no() == before + 1
        assert [finding for finding in await storage.check() if not finding.is_ok] == []
        jobs = await _claimed(storage)
    finally:
        await storage.close()
    assert jobs[-1] == "last"
    assert len(jobs) == len(set(jobs))


async def _answers(end: End, accounts: Sequence[NewAccount]) -> list[Any]:
    """What the ports tell of the tenants."""
    storage = await end.storage()
    try:
        found: list[Any] = [await storage.directory.list_tenants(), await storage.directory.list_plans()]
        for account in accounts:
            found += await _of_tenant(storage, account)
            found += await _of_index(storage, account)
        return found
    finally:
        await storage.close()


async def _of_tenant(storage: Storage, account: NewAccount) -> list[Any]:
    store = storage.tenant(account.tenant.id)
    spaces = await store.list_spaces(account.user.id)
    where = MemoryFilter(spaces=frozenset(space.id for space, _ in spaces), states=None)
    page = await store.list_memories(where, order=ListOrder.UPDATED_NEWEST, limit=100, offset=0)
    assert page.memories
    return [
        spaces,
        page,
        await storage.directory.list_users(account.tenant.id),
        await storage.directory.list_keys(account.tenant.id),
        await storage.directory.find_credentials(account.key_hash),
        await store.list_memories(replace(where, tags=("new",)), order=ListOrder.CREATED_NEWEST, limit=100, offset=0),
        [await store.list_versions(memory.id, where.spaces) for memory in page.memories],
        await store.known_identities([f"identity {number}" for number in range(30)]),
        [_as_copied(job) for job in await store.list_jobs(frozenset(JobKind), where.spaces, limit=100)],
        await store.change_no(),
        await store.count_memories(),
        # The oldest first, which ids of these tests do not tell.
        [sorted(await store.list_without_vectors(model, limit=100)) for model in MODELS],
    ]


def _as_copied(job: Job) -> Job:
    """The job, queued when it is running: whoever ran it is not at the other end."""
    return replace(job, state=JobState.QUEUED, lease_until_at=None) if job.state is JobState.RUNNING else job


async def _of_index(storage: Storage, account: NewAccount) -> list[Any]:
    index = storage.search(account.tenant.id)
    spaces = await storage.tenant(account.tenant.id).list_spaces(account.user.id)
    where = MemoryFilter(spaces=frozenset(space.id for space, _ in spaces), states=None)
    words = ("alpha", "often", "Größe", "nowhere")
    lexical = await index.lexical(words, where, limit=50)
    counted = await index.words(words, words, where, limit=50, most=3)
    vector = np.array([1.0] + [0.0] * (MODELS[0].dimension - 1), dtype=np.float32)
    dense = await index.dense(vector, MODELS[0], where, limit=50)
    evidence = await index.evidence([hit.memory_id for hit in lexical], MODELS[0], words)
    assert lexical
    assert dense
    return [
        [(hit.memory_id, pytest.approx(hit.score, abs=1e-3)) for hit in lexical],
        [(hit.memory_id, pytest.approx(hit.score, abs=1e-3)) for hit in dense],
        counted.statistics,
        {
            memory_id: (
                held.frequencies,
                held.length,
                held.traits,
                held.embeddings.tolist(),
                [v.tolist() for v in held.token_vectors],
            )
            for memory_id, held in evidence.items()
        },
    ]


async def _add_job(storage: Storage, account: NewAccount, name: str) -> None:
    await storage.tenant(account.tenant.id).commit([AddJob(job=job_of(account, name))], now=AT)


async def _claimed(storage: Storage) -> list[str]:
    """The jobs that a worker gets, one after another, until there is none."""
    names: list[str] = []
    until = AT + timedelta(minutes=1)
    while job := await storage.jobs.claim(queues=frozenset({"default"}), now=AT, lease_until_at=until):
        names.append(job.id)
        await storage.jobs.park(job.tenant_id, job.id, fence=job.fence, error="done with", now=AT)
    return names


# --- resumed ---------------------------------------------------------------------------------------------


class Cut(Exception):
    """The process ends here."""


class Wrapped:
    """A destination that stores as another does; the next tests change one step of it each."""

    def __init__(self, target: CopyTarget) -> None:
        self._target = target

    async def tenants(self) -> Sequence[TenantExtent]:
        return await self._target.tenants()

    async def rows(
        self, table: CopiedTable, tenant_id: TenantId | None, *, after: CopyRow | None = None
    ) -> AsyncIterator[Sequence[CopyRow]]:
        async for rows in self._target.rows(table, tenant_id, after=after):
            yield rows

    async def state(self) -> DestinationState:
        return await self._target.state()

    async def begin(self, copy_id: str, source: str) -> None:
        await self._target.begin(copy_id, source)

    async def write_shared(self, table: CopiedTable, rows: Sequence[CopyRow]) -> None:
        await self._target.write_shared(table, rows)

    async def marks(self, tenant_id: TenantId) -> Mapping[str, Mark]:
        return await self._target.marks(tenant_id)

    async def write(self, pages: Sequence[Page], settled: Sequence[TenantId]) -> None:
        await self._target.write(pages, settled)

    async def wipe(self, tenant_id: TenantId) -> None:
        await self._target.wipe(tenant_id)

    async def distrust(self, tenant_id: TenantId) -> None:
        await self._target.distrust(tenant_id)

    async def finish(self) -> None:
        await self._target.finish()

    async def close(self) -> None:
        await self._target.close()


class CutOff(Wrapped):
    """Ends after so many transactions; counts rows that were stored."""

    def __init__(self, target: CopyTarget, transactions: int) -> None:
        super().__init__(target)
        self._left = transactions
        self.stored = 0

    async def write(self, pages: Sequence[Page], settled: Sequence[TenantId]) -> None:
        if self._left == 0:
            raise Cut
        self._left -= 1
        await self._target.write(pages, settled)
        self.stored += sum(len(page.rows) for page in pages)


async def cut_after(source: End, destination: End, transactions: int) -> tuple[CopyResult | None, int]:
    """What a copy comes to that ends after so many transactions (None: cut off), and how many rows it stored."""
    made: list[CutOff] = []

    def wrap(target: CopyTarget) -> CopyTarget:
        made.append(CutOff(target, transactions))
        return made[0]

    try:
        result = await copied(source, destination, wrap=wrap)
    except Cut:
        result = None
    return result, made[0].stored


@each_kind
async def test_a_copy_cut_off_after_every_transaction_stores_each_row_once(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 6)
    expected = await rows_of(source)
    total = sum(len(rows) for (tenant_id, _), rows in expected.items() if tenant_id is not None)

    runs = 0
    stored = 0
    result = None
    while result is None:
        result, more = await cut_after(source, destination, 1)
        runs, stored = runs + 1, stored + more

    assert isinstance(result, Copied)
    assert result.is_resumed
    assert runs > 10
    assert stored == total
    assert await rows_of(destination) == expected


@pairs
async def test_what_moved_at_the_source_between_two_runs_is_copied_as_it_is_now(
    new_end: NewEnd, first: str, second: str
) -> None:
    source, destination = new_end(first), new_end(second)
    account, other = await filled(source, 7)
    stopped, _ = await cut_after(source, destination, 9)
    storage = await source.storage()
    page = await storage.tenant(account.tenant.id).list_memories(
        MemoryFilter(spaces=frozenset({account.space.id}), states=None),
        order=ListOrder.UPDATED_NEWEST,
        limit=1,
        offset=0,
    )
    deletion = DeleteMemory(memory_id=page.memories[0].id, spaces=frozenset({account.space.id}))
    await storage.tenant(account.tenant.id).commit([deletion], now=AT)
    await storage.directory.set_tenant(replace(other.tenant, name="renamed"))
    await storage.directory.put_plan(Plan(name="small", requests_per_minute=9, burst=9, max_memories=None))
    await storage.close()

    result = await copied(source, destination)

    assert stopped is None
    assert isinstance(result, Copied)
    assert await rows_of(destination) == await rows_of(source)


@each_kind
async def test_a_key_revoked_between_two_runs_is_revoked_at_the_destination(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    account, _ = await filled(source, 8)
    await cut_after(source, destination, 9)
    storage = await source.storage()
    await storage.directory.revoke_key(account.key.id, now=AT)
    await storage.close()

    await copied(source, destination)

    copy = await destination.storage()
    try:
        found = await copy.directory.find_credentials(account.key_hash)
    finally:
        await copy.close()
    assert found is not None
    assert found.key.revoked_at == AT


class Damaging(Wrapped):
    """Something else than the copy changes the destination before it is compared."""

    def __init__(self, target: CopyTarget, damage: Callable[[], None]) -> None:
        super().__init__(target)
        self._damage = damage
        self._asked = 0

    async def tenants(self) -> Sequence[TenantExtent]:
        self._asked += 1
        if self._asked == 2:
            self._damage()
        return await self._target.tenants()


@each_kind
async def test_a_row_gone_from_a_table_that_was_not_copied_whole_is_noticed(
    new_end: NewEnd, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_copy, "BATCH_ROWS", 1)
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 24, tenants=1)
    while not await _is_at(destination, "jobs"):
        assert (await cut_after(source, destination, 1))[0] is None
    source.run("DELETE FROM job_dispatch WHERE job_id = '0-tenant-t0'")
    source.run("DELETE FROM jobs WHERE job_id = '0-tenant-t0'")

    result = await copied(source, destination)

    assert isinstance(result, Copied)
    assert await rows_of(destination) == await rows_of(source)


async def _is_at(end: End, table: str) -> bool:
    """True when some rows of the table were copied, and not yet all."""
    target = await end.target()
    try:
        mark = (await target.marks(TenantId("tenant-t0"))).get(table, Mark())
        return mark.tally.rows > 0 and not mark.is_done
    finally:
        await target.close()


@pytest.mark.parametrize("lost", ["source", "destination"])
async def test_a_copy_whose_connection_is_lost_says_so_and_is_resumed(new_end: NewEnd, lost: str) -> None:
    source, destination = new_end("postgres"), new_end("postgres")
    await filled(source, 29)
    end = source if lost == "source" else destination

    class Losing(Wrapped):
        """Loses the connection before the fourth transaction."""

        transactions = 0

        async def write(self, pages: Sequence[Page], settled: Sequence[TenantId]) -> None:
            self.transactions += 1
            if self.transactions == 4:
                end.run(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND backend_type = 'client backend'"
                )
            await super().write(pages, settled)

    with pytest.raises(StorageUnavailable):
        await copied(source, destination, wrap=Losing)
    result = await copied(source, destination)

    assert isinstance(result, Copied)
    assert result.is_resumed
    assert await rows_of(destination) == await rows_of(source)


@each_kind
async def test_a_tenant_that_is_no_longer_at_the_source_leaves_the_destination(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 25, memories=3)

    def cut() -> None:
        raise Cut

    with pytest.raises(Cut):
        await copied(source, destination, wrap=lambda target: Damaging(target, cut))
    for table in EMPTIED_TABLES:
        source.run(f"DELETE FROM {table} WHERE tenant_id = 'tenant-t1'")

    result = await copied(source, destination)

    assert isinstance(result, Copied)
    assert result.tenants == 1
    assert await rows_of(destination) == await rows_of(source)


# --- compared --------------------------------------------------------------------------------------------


FLIPPED = {
    "sqlite": "UPDATE token_vectors SET vectors = cast(x'7f' || substr(vectors, 2) AS BLOB)"
    " WHERE length(vectors) > 0 AND hex(substr(vectors, 1, 1)) <> '7F' AND doc_no IN"
    " (SELECT doc_no FROM memories WHERE tenant_id = 'tenant-t1')",
    "postgres": "UPDATE chunks SET token_vectors = set_bit(token_vectors, 0, 1 - get_bit(token_vectors, 0))"
    " WHERE tenant_id = 'tenant-t1' AND length(token_vectors) > 0",
}


@each_kind
async def test_a_bit_that_flipped_at_the_destination_is_found_and_named_and_mended_by_the_next_run(
    new_end: NewEnd, kind: str
) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 9)
    expected = await rows_of(source)
    entries = len(expected["tenant-t1", "index_entries"])

    result = await copied(
        source, destination, wrap=lambda target: Damaging(target, lambda: destination.run(FLIPPED[kind]))
    )

    assert result == Differs(
        (Difference(tenant_id=TenantId("tenant-t1"), table="index_entries", rows_expected=entries, rows_found=entries),)
    )
    with pytest.raises(StorageDamaged, match="unfinished"):
        await destination.storage()
    assert isinstance(await copied(source, destination), Copied)
    assert await rows_of(destination) == expected


@each_kind
async def test_a_lost_row_a_changed_plan_and_a_stray_tenant_are_named(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 10)

    def damage() -> None:
        destination.run("DELETE FROM tombstones WHERE tenant_id = 'tenant-t0'")
        destination.run("UPDATE plans SET burst = 1 WHERE name = 'small'")
        destination.run(
            "INSERT INTO tenants (tenant_id, tenant_no, name, plan, is_active, created_at)"
            f" VALUES ('stray', 99, 'stray', 'small', {'true' if kind == 'postgres' else '1'}, 0)"
        )

    result = await copied(source, destination, wrap=lambda target: Damaging(target, damage))

    assert isinstance(result, Differs)
    named = {(each.tenant_id, each.table): each.rows_found - each.rows_expected for each in result.differences}
    assert set(named) == {(None, "plans"), ("stray", "tenants"), ("tenant-t0", "tombstones")}
    assert named[None, "plans"] == 0
    assert named[TenantId("tenant-t0"), "tombstones"] < 0
    assert isinstance(await copied(source, destination), Copied)
    assert await rows_of(destination) == await rows_of(source)


def test_rows_that_differ_in_a_kind_a_border_or_a_place_have_other_hashes() -> None:
    rows: list[CopyRow] = [(), (None,), (0,), ("",), (b"",), ("0",), ("a", "b"), ("ab", ""), ("b", "a"), (1, 2), (12,)]

    assert len({row_hash(row) for row in rows}) == len(rows)
    assert row_hash((True, False)) == row_hash((1, 0))


# --- refused ---------------------------------------------------------------------------------------------


@each_kind
async def test_a_destination_with_anything_in_it_is_refused_and_left_alone(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 11)
    await filled(destination, 12, tenants=1, memories=3)
    before = await rows_of(destination)

    with pytest.raises(Conflict, match="not empty"):
        await copied(source, destination)

    assert await rows_of(destination) == before
    storage = await destination.storage()
    await storage.close()


@each_kind
async def test_a_finished_copy_is_not_written_again(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 13, tenants=1, memories=3)
    await copied(source, destination)

    with pytest.raises(Conflict, match="not empty"):
        await copied(source, destination)


@pairs
async def test_an_unfinished_copy_is_resumed_from_its_own_source_alone(
    new_end: NewEnd, first: str, second: str
) -> None:
    source, other, destination = new_end(first), new_end(first), new_end(second)
    await filled(source, 14)
    await copied(source, other)
    await cut_after(source, destination, 3)

    with pytest.raises(Conflict, match="another source"):
        await copied(other, destination)

    assert isinstance(await copied(source, destination), Copied)


@each_kind
async def test_neither_a_server_nor_another_copy_opens_half_a_copy(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 15)
    await cut_after(source, destination, 3)

    with pytest.raises(StorageDamaged, match="run the same copy again"):
        await destination.storage()
    with pytest.raises(StorageDamaged, match="run the same copy again"):
        await destination.source()


async def test_a_running_server_keeps_both_ends_of_a_copy_closed(new_end: NewEnd, tmp_path: Path) -> None:
    source, destination = new_end("sqlite"), SqliteEnd(tmp_path / "served")
    await filled(source, 16, tenants=1, memories=3)
    server = await SqliteStorage.open(destination.folder)
    try:
        with pytest.raises(DataDirectoryLocked):
            await copied(source, destination)
        with pytest.raises(DataDirectoryLocked):
            await copied(destination, source)
    finally:
        await server.close()


async def test_two_copies_do_not_write_to_one_postgresql_database(new_end: NewEnd) -> None:
    destination = new_end("postgres")
    first = await destination.target()
    try:
        with pytest.raises(Conflict, match="another copy"):
            await destination.target()
    finally:
        await first.close()


async def test_a_source_without_a_database_of_ours_is_refused_and_none_is_made(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.new_database(is_empty=True)

    with pytest.raises(SettingsInvalid, match="no database"):
        await SqliteCopySource.open(tmp_path / "nowhere")
    with pytest.raises(SettingsInvalid, match="nothing of polymem"):
        await PostgresEnd(url, tmp_path).source()

    assert not (tmp_path / "nowhere").exists()
    target = await PostgresEnd(url, tmp_path).target()
    assert await target.state() == Unused()
    await target.close()


async def test_a_row_that_the_destination_cannot_hold_is_told_and_stops_the_copy(new_end: NewEnd) -> None:
    source, destination = new_end("sqlite"), new_end("postgres")
    await filled(source, 17, tenants=1, memories=3)
    source.run("UPDATE jobs SET priority = 3000000000")

    with pytest.raises(StorageDamaged, match="jobs of tenant tenant-t0 contradicts others, or holds what PostgreSQL"):
        await copied(source, destination)


@each_kind
async def test_an_index_entry_whose_vectors_are_not_its_models_is_told(new_end: NewEnd, kind: str) -> None:
    source = new_end(kind)
    await filled(source, 22, tenants=1)
    source.run("UPDATE models SET dimension = 5, token_dimension = 5 WHERE name = 'small'")

    with pytest.raises(StorageDamaged, match="of the model that it names"):
        await copied(source, new_end("postgres"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE token_vectors SET vectors = x'00'", "token vectors"),
        ("UPDATE index_entries SET terms = x'0011'", "terms"),
    ],
)
async def test_an_index_entry_that_does_not_read_back_is_told(new_end: NewEnd, damage: str, told: str) -> None:
    source = new_end("sqlite")
    await filled(source, 23, tenants=1)
    source.run(damage)

    with pytest.raises(StorageDamaged, match=told):
        await copied(source, new_end("postgres"))


async def test_a_text_that_is_no_text_is_told_with_its_table(new_end: NewEnd) -> None:
    source = new_end("sqlite")
    await filled(source, 26, tenants=1)
    source.run("UPDATE memories SET content = cast(x'ff' AS TEXT)")

    with pytest.raises(StorageDamaged, match="a row of memories of tenant tenant-t0 cannot be read"):
        await copied(source, new_end("sqlite"))


@each_kind
async def test_rows_that_contradict_others_are_refused_whole(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 27, tenants=1)
    rows = await rows_of(source)
    tenant_id = TenantId("tenant-t0")
    target = await destination.target()

    def page(name: str, *changed: CopyRow) -> Page:
        table = next(table for table in TENANT_TABLES if table.name == name)
        given = changed or rows[tenant_id, name]
        return Page(tenant_id=tenant_id, table=table, rows=given, mark=Mark().moved(table, given))

    entry = next(row for row in rows[tenant_id, "index_entries"] if row[2] is not None)
    unknown_model = (*entry[:2], '["unknown","1",8,4]', *entry[3:])
    no_memory = next(row for row in rows[tenant_id, "index_entries"] if row[2] is None)
    try:
        await target.begin("copy", "source")
        await target.write_shared(PLANS, rows[None, "plans"])
        with pytest.raises(Conflict):
            await target.begin("another", "source")
        for pages in (
            [page("users")],
            [page("index_entries")],
            [page("tenants"), page("index_entries", no_memory)],
            [page("tenants"), page("spaces"), page("members")],
            [page("tenants"), page("spaces"), page("memories"), page("index_entries", unknown_model)],
        ):
            with pytest.raises(StorageDamaged):
                await target.write(pages, [])
            assert await target.marks(tenant_id) == {}
            assert await target.tenants() == ()
    finally:
        await target.close()


@each_kind
async def test_an_index_entry_without_its_memory_never_passes_for_a_copy(new_end: NewEnd, kind: str) -> None:
    source, destination = new_end("sqlite"), new_end(kind)
    await filled(source, 28, tenants=1)
    lost = "DELETE FROM memories WHERE memory_id = (SELECT min(memory_id) FROM memories)"

    class Losing(Wrapped):
        """Loses a memory as soon as the memories are stored."""

        async def write(self, pages: Sequence[Page], settled: Sequence[TenantId]) -> None:
            await super().write(pages, settled)
            if any(page.table is MEMORIES and page.mark.is_done for page in pages):
                destination.run(lost)

    try:
        result: CopyResult | None = await copied(source, destination, wrap=Losing)
    except StorageDamaged as error:
        assert "belongs to no memory" in error.message  # noqa: PT017 - one end notices while it writes, one at the end
        result = None

    assert not isinstance(result, Copied)


# --- untouched -------------------------------------------------------------------------------------------


async def test_copying_changes_no_row_of_the_source(new_end: NewEnd, tmp_path: Path) -> None:
    source = SqliteEnd(tmp_path / "source")
    account, _ = await filled(source, 18)
    await put_file(source, account, "file-1", b"content")
    before = _dump(source)

    await copied(source, new_end("postgres"))

    assert _dump(source) == before
    assert any("'running'" in line for line in before)


def _dump(end: SqliteEnd) -> list[str]:
    with closing(sqlite3.connect(end.folder / DATABASE_FILE)) as connection:
        return list(connection.iterdump())


# --- files -----------------------------------------------------------------------------------------------


@pairs
async def test_files_are_copied_and_compared(new_end: NewEnd, first: str, second: str) -> None:
    source, destination = new_end(first), new_end(second)
    account, other = await filled(source, 19, memories=3)
    files = {"file-1": b"one" * 400_000, "file-2": b""}
    for name, content in files.items():
        await put_file(source, account, name, content)
    await put_file(source, other, "file-3", b"three")

    result = await copied(source, destination)

    assert isinstance(result, Copied)
    assert result.files == 3
    blobs = FilesystemBlobs(destination.files)
    assert await blobs.list_ids(other.tenant.id) == ("file-3",)
    for name, content in files.items():
        assert b"".join([piece async for piece in blobs.open(account.tenant.id, BlobId(name))]) == content


async def test_a_file_that_differs_is_found_and_put_again_by_the_next_run(new_end: NewEnd) -> None:
    source, destination = new_end("sqlite"), new_end("sqlite")
    account, _ = await filled(source, 20, memories=3)
    for name in ("file-1", "file-2"):
        await put_file(source, account, name, b"true")
    await put_file(destination, account, "file-1", b"false")

    result = await copied(source, destination)

    named = Difference(tenant_id=account.tenant.id, table="files", rows_expected=2, rows_found=1)
    assert result == Differs((named,))
    assert isinstance(await copied(source, destination), Copied)


# --- told ------------------------------------------------------------------------------------------------


async def test_progress_goes_up_to_every_memory_in_both_stages(new_end: NewEnd) -> None:
    source, destination = new_end("sqlite"), new_end("sqlite")
    await filled(source, 21)
    told: list[Progress] = []
    await cut_after(source, destination, 9)

    result = await copied(source, destination, report=told.append)

    assert isinstance(result, Copied)
    for stage in (Stage.COPYING, Stage.COMPARING):
        counts = [each.memories for each in told if each.stage is stage]
        assert counts == sorted(counts)
        assert counts[-1] == result.memories
    assert {each.of_memories for each in told} == {result.memories}


async def test_an_empty_database_is_copied_too(new_end: NewEnd) -> None:
    source, destination = new_end("sqlite"), new_end("postgres")
    storage = await source.storage()
    await storage.close()

    assert await copied(source, destination) == Copied(tenants=0, memories=0, rows=4, files=0, is_resumed=False)
