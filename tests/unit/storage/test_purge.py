"""A server's own care for its files: deleted words leave the disk, dead holders' leases end, nobody else may read."""

from datetime import timedelta
from pathlib import Path

from polymem.domain.model import Job, MemoryId
from polymem.domain.query import MemoryFilter
from polymem.ports.changes import AddJob, Deleted, DeleteMemory, IndexEntry, PutMemory
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage
from samples import AT, account_of, job_of, memory_of

ACCOUNT = account_of("acme")
TENANT, SPACE = ACCOUNT.tenant.id, ACCOUNT.space.id
SECRET = "xylophonequartz"


def _put(number: int, *terms: str) -> PutMemory:
    memory = memory_of(ACCOUNT, f"m{number:05}", content=" ".join(terms))
    return PutMemory(memory=memory, index=IndexEntry(terms=terms, embedding=None))


def _is_on_disk(directory: Path, word: str) -> bool:
    return any(word.encode() in path.read_bytes() for path in directory.iterdir() if path.is_file())


def _modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.glob(f"{DATABASE_FILE}*")}


async def test_a_purge_takes_the_words_of_deleted_memories_off_the_disk_and_keeps_the_others(tmp_path: Path) -> None:
    storage = await SqliteStorage.open(tmp_path)
    await storage.directory.create_account(ACCOUNT)
    store = storage.tenant(TENANT)
    for number in range(40):
        await store.commit([_put(number, "common", f"word{number}")], now=AT)
    await store.commit([_put(99, "common", SECRET)], now=AT)
    await storage.purge()
    assert _is_on_disk(tmp_path, SECRET)
    deleted = await store.commit([DeleteMemory(memory_id=MemoryId("m00099"), spaces=frozenset({SPACE}))], now=AT)
    assert getattr(deleted, "outcomes", None) == (Deleted("m00099"),)
    await storage.purge()
    assert not _is_on_disk(tmp_path, SECRET)
    assert [finding for finding in await storage.check() if not finding.is_ok] == []
    hits = await storage.search(TENANT).lexical(["common"], MemoryFilter(spaces=frozenset({SPACE})), limit=100)
    assert {hit.memory_id for hit in hits} == {f"m{number:05}" for number in range(40)}
    await storage.close()


async def test_a_job_held_by_a_dead_server_is_due_at_once_for_the_next_one_and_not_for_a_command(
    tmp_path: Path,
) -> None:
    async def claimed(storage: SqliteStorage) -> Job | None:
        later = AT + timedelta(seconds=1)
        return await storage.jobs.claim(
            queues=frozenset({"import"}), now=later, lease_until_at=later + timedelta(hours=1)
        )

    first = await SqliteStorage.open(tmp_path)
    await first.directory.create_account(ACCOUNT)
    await first.tenant(TENANT).commit([AddJob(job=job_of(ACCOUNT, "job", queue="import"))], now=AT)
    held = await claimed(first)
    assert held is not None
    command = await SqliteStorage.open(tmp_path, owns_directory=False)
    assert await claimed(command) is None
    await command.close()
    await first.close()
    second = await SqliteStorage.open(tmp_path)
    again = await claimed(second)
    assert again is not None
    assert (again.id, again.attempts, again.fence) == (held.id, 2, held.fence + 1)
    assert [finding for finding in await second.check() if not finding.is_ok] == []
    await second.close()


async def test_the_files_of_the_database_are_for_their_owner_alone(tmp_path: Path) -> None:
    storage = await SqliteStorage.open(tmp_path)
    await storage.directory.create_account(ACCOUNT)
    modes = _modes(tmp_path)
    assert modes == dict.fromkeys([DATABASE_FILE, f"{DATABASE_FILE}-shm", f"{DATABASE_FILE}-wal"], 0o600)
    await storage.close()
