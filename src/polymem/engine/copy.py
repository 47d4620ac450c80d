"""Everything that one storage holds, copied to another: resumed where it was cut off, and compared before it counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from sys import maxsize
from typing import Final, assert_never

from polymem.domain.model import BlobId, TenantId
from polymem.errors import Conflict
from polymem.ports.blobs import BlobStore
from polymem.ports.copy import (
    INDEX_ENTRIES,
    MEMORIES,
    SHARED_TABLES,
    TENANT_TABLES,
    TENANTS,
    CopiedTable,
    CopyReader,
    CopyRow,
    CopySource,
    CopyTarget,
    Mark,
    Occupied,
    Page,
    Tally,
    TenantExtent,
    Unfinished,
    Unused,
    row_bytes,
)
from polymem.ports.runtime import Ids

# A transaction at the destination ends with the piece that reaches one of these.
BATCH_ROWS: Final = 2000
BATCH_BYTES: Final = 8 << 20

FILES: Final = "files"


class Stage(StrEnum):
    """What a copy is at."""

    COPYING = "copying"
    FILES = "copying files"
    COMPARING = "comparing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a stage is, told in memories."""

    stage: Stage
    memories: int
    of_memories: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """The destination holds what the source holds, compared row by row. `rows` counts those of every table."""

    tenants: int
    memories: int
    rows: int
    files: int
    is_resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A table (or the files) of a tenant that is not at the destination as it is at the source; None: of no tenant."""

    tenant_id: TenantId | None
    table: str
    rows_expected: int
    rows_found: int


@dataclass(frozen=True, slots=True)
class Differs:
    """The destination is not what the source is; the next run makes these tenants anew. No server opens it."""

    differences: tuple[Difference, ...]


CopyResult = Copied | Differs


class Copying:
    """One run of a copy. The files of both ends go by the same ids."""

    def __init__(
        self,
        source: CopySource,
        target: CopyTarget,
        *,
        source_blobs: BlobStore,
        target_blobs: BlobStore,
        ids: Ids,
        report: Callable[[Progress], None],
    ) -> None:
        self._source = source
        self._target = target
        self._source_blobs = source_blobs
        self._target_blobs = target_blobs
        self._ids = ids
        self._report = report
        self._batch = _Batch(target)
        # A memory counts half with its row and half with its index entry, which is most of the work.
        self._halves = 0
        self._total = 0

    async def run(self) -> CopyResult:
        """The destination holds what the source held when this began, and is open to servers, unless something differs.

        Raises `Conflict` when the destination holds anything else than an unfinished copy of this source.
        """
        is_resumed = await self._begin()
        extents = await self._source.tenants()
        self._total = sum(extent.memory_count for extent in extents)
        for table in SHARED_TABLES:
            async for rows in self._source.rows(table, None):
                await self._target.write_shared(table, rows)
        held = {extent.tenant_id: extent.change_no for extent in await self._target.tenants()}
        for gone in held.keys() - {extent.tenant_id for extent in extents}:
            await self._target.wipe(gone)
        self._tell(Stage.COPYING)
        for extent in extents:
            await self._copy_tenant(extent, held.get(extent.tenant_id))
        await self._batch.flush()
        files = 0
        for extent in extents:
            files += await self._copy_files(extent.tenant_id)
            self._tell(Stage.FILES)
        return await self._judge(extents, files, is_resumed=is_resumed)

    async def _begin(self) -> bool:
        """The copy is under way; whether it was before."""
        identity = await self._source.identity()
        match await self._target.state():
            case Unused():
                await self._target.begin(self._ids.new_uuid4(), identity)
                return False
            case Unfinished(source=source):
                if source != identity:
                    raise Conflict("the destination is the unfinished copy of another source; copy to an empty one")
                return True
            case Occupied():
                raise Conflict("the destination is not empty; copy to a new database or data directory")
            case _ as never:
                assert_never(never)

    # --- copying -------------------------------------------------------------------------------------------

    async def _copy_tenant(self, extent: TenantExtent, held_change_no: int | None) -> None:
        """All rows of the tenant are in batches; `held_change_no`: up to which change an earlier run copied it."""
        tenant_id = extent.tenant_id
        marks: Mapping[str, Mark] = {}
        if held_change_no is not None:
            marks = await self._target.marks(tenant_id)
            if not marks or held_change_no != extent.change_no or await self._has_moved(tenant_id, marks):
                await self._target.wipe(tenant_id)
                marks = {}
        is_whole = True
        for table in TENANT_TABLES:
            mark = marks.get(table.name, Mark())
            self._count(table, mark.tally.rows)
            if not mark.is_done:
                await self._copy_table(tenant_id, table, mark)
                is_whole = False
        if not is_whole:
            self._batch.settle(tenant_id)
        self._tell(Stage.COPYING)

    async def _copy_table(self, tenant_id: TenantId, table: CopiedTable, mark: Mark) -> None:
        """All rows of the table after the mark are in batches."""
        async for rows in self._source.rows(table, tenant_id, after=mark.after):
            mark = mark.moved(table, rows)
            await self._batch.add(Page(tenant_id=tenant_id, table=table, rows=rows, mark=mark))
            self._count(table, len(rows))
            self._tell(Stage.COPYING)
        self._batch.append(Page(tenant_id=tenant_id, table=table, rows=(), mark=replace(mark, is_done=True)))

    async def _has_moved(self, tenant_id: TenantId, marks: Mapping[str, Mark]) -> bool:
        """True when the source no longer has the rows that were copied, in a table whose changes are not counted."""
        for table in TENANT_TABLES:
            mark = marks.get(table.name)
            if mark is None or table.moves_with_changes:
                continue
            if await _tally(self._source, table, tenant_id, up_to=None if mark.is_done else mark.after) != mark.tally:
                return True
        return False

    async def _copy_files(self, tenant_id: TenantId) -> int:
        """Every file of the tenant is at the destination; how many it has."""
        wanted = await self._source_blobs.list_ids(tenant_id)
        held = frozenset(await self._target_blobs.list_ids(tenant_id)) if wanted else frozenset()
        for blob_id in wanted:
            if blob_id not in held:
                content = self._source_blobs.open(tenant_id, blob_id)
                await self._target_blobs.put(tenant_id, blob_id, content, max_bytes=maxsize)
        return len(wanted)

    # --- comparing -----------------------------------------------------------------------------------------

    async def _judge(self, extents: Sequence[TenantExtent], files: int, *, is_resumed: bool) -> CopyResult:
        """The copy is finished when nothing differs."""
        self._halves = 0
        held = {extent.tenant_id for extent in await self._target.tenants()}
        differences = [
            Difference(tenant_id=unknown, table=TENANTS.name, rows_expected=0, rows_found=1)
            for unknown in sorted(held - {extent.tenant_id for extent in extents})
        ]
        rows = 0
        for table in SHARED_TABLES:
            expected = await _tally(self._source, table, None)
            differences += _compared(None, table, expected, await _tally(self._target, table, None))
            rows += expected.rows
        for extent in extents:
            marks = await self._target.marks(extent.tenant_id)
            for table in TENANT_TABLES:
                expected = marks[table.name].tally
                found = Tally()
                async for piece in self._target.rows(table, extent.tenant_id):
                    found = found.plus(piece)
                    self._count(table, len(piece))
                    self._tell(Stage.COMPARING)
                differences += _compared(extent.tenant_id, table, expected, found)
                rows += expected.rows
            differences += await self._compare_files(extent.tenant_id)
        if differences:
            for tenant_id in {each.tenant_id for each in differences if each.tenant_id is not None}:
                await self._target.distrust(tenant_id)
            return Differs(tuple(differences))
        await self._target.finish()
        return Copied(tenants=len(extents), memories=self._total, rows=rows, files=files, is_resumed=is_resumed)

    async def _compare_files(self, tenant_id: TenantId) -> list[Difference]:
        wanted = await self._source_blobs.list_ids(tenant_id)
        differing = 0
        for blob_id in wanted:
            expected = await _file_digest(self._source_blobs, tenant_id, blob_id)
            if await _file_digest(self._target_blobs, tenant_id, blob_id) != expected:
                # A file that is there is not put: without it the next run puts it again.
                await self._target_blobs.delete(tenant_id, blob_id)
                differing += 1
        if not differing:
            return []
        found = len(wanted) - differing
        return [Difference(tenant_id=tenant_id, table=FILES, rows_expected=len(wanted), rows_found=found)]

    # --- progress ------------------------------------------------------------------------------------------

    def _count(self, table: CopiedTable, rows: int) -> None:
        if table in {MEMORIES, INDEX_ENTRIES}:
            self._halves += rows

    def _tell(self, stage: Stage) -> None:
        self._report(Progress(stage=stage, memories=self._halves // 2, of_memories=self._total))


class _Batch:
    """What the next transaction at the destination will store."""

    def __init__(self, target: CopyTarget) -> None:
        self._target = target
        self._pages: list[Page] = []
        self._settled: list[TenantId] = []
        self._rows = 0
        self._bytes = 0

    async def add(self, page: Page) -> None:
        """The page is stored, or will be."""
        self.append(page)
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            await self.flush()

    def append(self, page: Page) -> None:
        """The page will be stored."""
        self._pages.append(page)
        self._rows += len(page.rows)
        self._bytes += sum(map(row_bytes, page.rows))

    def settle(self, tenant_id: TenantId) -> None:
        """All pages of the tenant were added."""
        self._settled.append(tenant_id)

    async def flush(self) -> None:
        """All pages are stored."""
        if self._pages:
            await self._target.write(self._pages, self._settled)
        self._pages, self._settled, self._rows, self._bytes = [], [], 0, 0


async def _tally(
    end: CopyReader, table: CopiedTable, tenant_id: TenantId | None, *, up_to: CopyRow | None = None
) -> Tally:
    """The tally of the table's rows, up to a key if one is given."""
    tally = Tally()
    async for rows in end.rows(table, tenant_id):
        tally = tally.plus(rows if up_to is None else [row for row in rows if not _is_after(row, table, up_to)])
    return tally


def _is_after(row: CopyRow, table: CopiedTable, key: CopyRow) -> bool:
    """True when the row stands after the key: text is ordered by code points, numbers by size, at both ends."""
    for value, limit in zip(row[: table.key_size], key, strict=True):
        if value != limit:
            return bool(value > limit)  # type: ignore[operator]  # keys are texts and numbers, a column all of one kind
    return False


def _compared(tenant_id: TenantId | None, table: CopiedTable, expected: Tally, found: Tally) -> list[Difference]:
    if expected == found:
        return []
    return [Difference(tenant_id=tenant_id, table=table.name, rows_expected=expected.rows, rows_found=found.rows)]


async def _file_digest(blobs: BlobStore, tenant_id: TenantId, blob_id: BlobId) -> bytes:
    digest = blake2b()
    async for piece in blobs.open(tenant_id, blob_id):
        digest.update(piece)
    return digest.digest()
