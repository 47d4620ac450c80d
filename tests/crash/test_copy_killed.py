"""A copy that is killed again and again, at any step, ends as one that was left alone."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from copies import End, PostgresEnd, SqliteEnd, filled, rows_of
from polymem.errors import StorageDamaged
from postgres import PostgresServer

DRIVER = Path(__file__).with_name("copy_driver.py")
KILLS = 8
STEPS = 12
SECONDS = 30.0


def place(end: End) -> str:
    return f"sqlite:{end.folder}" if isinstance(end, SqliteEnd) else end.url if isinstance(end, PostgresEnd) else ""


async def ran_to_end(source: End, destination: End, *, steps: int = 1 << 30, stage: bytes = b"done") -> bool:
    """The copy ran until it was killed after so many steps or at a stage, or to its end: whether it ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(DRIVER), place(source), place(destination), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    seen = 0
    async with asyncio.timeout(SECONDS):
        async for line in process.stdout:
            seen += 1
            if seen == steps or (line.startswith(stage) and stage != b"done"):
                process.kill()
                break
        status = await process.wait()
    assert status in {0, -9}
    return status == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("first", "second"), [("sqlite", "postgres"), ("postgres", "sqlite")])
async def test_a_copy_killed_at_random_steps_is_resumed_and_whole(
    postgres_server: PostgresServer, tmp_path: Path, first: str, second: str
) -> None:
    chosen = random.Random(20_260_701)
    ends: dict[str, End] = {
        "sqlite": SqliteEnd(tmp_path / "data"),
        "postgres": PostgresEnd(postgres_server.new_database(), tmp_path / "files"),
    }
    source, destination = ends[first], ends[second]
    await filled(source, 1, memories=40)
    expected = await rows_of(source)

    for _ in range(KILLS):
        has_ended = await ran_to_end(source, destination, steps=chosen.randint(1, STEPS))
        assert not has_ended, "the copy ended before it was killed: the test proved nothing"
        with pytest.raises(StorageDamaged, match="unfinished"):
            await destination.storage()
    assert not await ran_to_end(source, destination, stage=b"comparing")

    assert await ran_to_end(source, destination)
    assert await rows_of(destination) == expected
    assert await rows_of(source) == expected
