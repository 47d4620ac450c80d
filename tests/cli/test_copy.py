"""`polymem copy` at a shell: what it takes, what it tells, how it ends, and that it shows no secret."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from copies import SqliteEnd, filled, put_file, rows_of
from packages import cannot_be_imported
from polymem.__main__ import main
from polymem.bootstrap.copying import copy_all, place_of
from polymem.cli.copy import lines
from polymem.cli.output import ExitStatus
from polymem.config import Settings
from polymem.engine.copy import Copied, Progress, Stage
from polymem.errors import InvalidInput
from postgres import PostgresServer

PASSWORD = "hunter2-of-these-tests"
URL = f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nothing?sslpassword={PASSWORD}"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("POLYMEM_DATABASE_URL", raising=False)


@pytest.fixture
def source(tmp_path: Path) -> SqliteEnd:
    """A data directory with content and a file."""
    end = SqliteEnd(tmp_path / "source")

    async def fill() -> None:
        account, _ = await filled(end, 1, memories=5)
        await put_file(end, account, "file-1", b"content")

    asyncio.run(fill())
    return end


class Shell:
    """Runs the command in this process and keeps what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["copy", *arguments])
        printed = self._capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_copy_tells_what_it_copied(source: SqliteEnd, tmp_path: Path, shell: Shell) -> None:
    status, out, err = shell("--from", f"sqlite:{source.folder}", "--to", f"sqlite:{tmp_path / 'copy'}")

    assert status == 0, err
    assert out.startswith(f"copied sqlite:{source.folder} to sqlite:{tmp_path / 'copy'}: 2 tenants, ")
    assert out.endswith(", 1 files; all compared and equal\n")
    assert err.splitlines()[0].startswith("copying: 0 of ")
    copy = SqliteEnd(tmp_path / "copy")
    assert asyncio.run(rows_of(copy)) == asyncio.run(rows_of(source))
    assert (copy.files / "tenant-t0" / "fi" / "file-1").read_bytes() == b"content"


def test_programs_are_told_in_json(source: SqliteEnd, tmp_path: Path, shell: Shell) -> None:
    status, out, err = shell("--from", f"sqlite:{source.folder}", "--to", f"sqlite:{tmp_path / 'copy'}", "--json")

    told = json.loads(out)
    assert status == 0, err
    assert told.pop("rows") > told.pop("memories") > 0
    assert told == {"ok": True, "is_resumed": False, "tenants": 2, "files": 1}


def test_the_database_of_the_settings_needs_no_url_on_the_command_line(
    source: SqliteEnd, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer
) -> None:
    monkeypatch.setenv("POLYMEM_DATABASE_URL", postgres_server.new_database())
    monkeypatch.setenv("POLYMEM_DATA_DIR", str(tmp_path / "server"))

    there = shell("--from", f"sqlite:{source.folder}", "--to", "postgresql:")
    back = shell("--from", "postgresql:", "--to", f"sqlite:{tmp_path / 'back'}")

    assert (there[0], back[0]) == (0, 0), there[2] + back[2]
    assert asyncio.run(rows_of(SqliteEnd(tmp_path / "back"))) == asyncio.run(rows_of(source))
    for folder in ("server", "back"):
        assert (tmp_path / folder / "blobs" / "tenant-t0" / "fi" / "file-1").is_file()


def test_files_go_where_the_options_say(source: SqliteEnd, tmp_path: Path, shell: Shell) -> None:
    ends = ("--from", f"sqlite:{source.folder}", "--to", f"sqlite:{tmp_path / 'copy'}")

    status, _, err = shell(*ends, "--files-from", str(source.folder), "--files-to", str(tmp_path / "other"))

    assert status == 0, err
    assert (tmp_path / "other" / "blobs" / "tenant-t0" / "fi" / "file-1").is_file()
    assert not (tmp_path / "copy" / "blobs").exists()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_difference_is_named_and_ends_the_command_as_refused(
    source: SqliteEnd, tmp_path: Path, shell: Shell, form: tuple[str, ...]
) -> None:
    ends = ("--from", f"sqlite:{source.folder}", "--to", f"sqlite:{tmp_path / 'copy'}")
    wrong = tmp_path / "copy" / "blobs" / "tenant-t0" / "fi" / "file-1"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"something else")

    status, out, _ = shell(*ends, *form)

    assert status == ExitStatus.FAILED
    if form:
        named = {"tenant_id": "tenant-t0", "table": "files", "rows_expected": 1, "rows_found": 0}
        assert json.loads(out) == {"ok": False, "differences": [named]}
    else:
        assert out.startswith("differs: files of tenant tenant-t0: 1 expected, 0 found\n")
    assert shell(*ends)[0] == 0


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_no_secret_is_shown_when_a_server_does_not_answer(
    source: SqliteEnd, shell: Shell, option: str, tmp_path: Path
) -> None:
    other = {"--from": ("--to", f"sqlite:{tmp_path / 'copy'}"), "--to": ("--from", f"sqlite:{source.folder}")}

    status, out, err = shell(option, URL, *other[option])

    assert status == ExitStatus.STORAGE
    assert "does not answer" in err
    assert PASSWORD not in out + err


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (f"mysql://u:{PASSWORD}@host/db", "neither sqlite:DIRECTORY nor postgresql://"),
        ("sqlite:", "neither sqlite:DIRECTORY nor postgresql://"),
        ("postgresql:", "the setting database_url names no database"),
        (f"postgresql://u:{PASSWORD}@host/db?nonsense=1", "from: not a postgresql:// URL"),
    ],
)
def test_what_is_no_place_is_a_usage_error(shell: Shell, tmp_path: Path, place: str, told: str) -> None:
    status, out, err = shell("--from", place, "--to", f"sqlite:{tmp_path / 'copy'}")

    assert status == ExitStatus.USAGE
    assert told in err
    assert PASSWORD not in out + err


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_without_the_driver_it_is_said_what_to_install(
    source: SqliteEnd, shell: Shell, tmp_path: Path, option: str
) -> None:
    other = {"--from": ("--to", f"sqlite:{tmp_path / 'copy'}"), "--to": ("--from", f"sqlite:{source.folder}")}

    with cannot_be_imported("pgvector"):
        status, _, err = shell(option, URL, *other[option])

    assert status == ExitStatus.USAGE
    assert "pip install 'polymem[postgres]'" in err


def test_a_copy_onto_itself_is_a_usage_error(source: SqliteEnd) -> None:
    place = place_of("from", f"sqlite:{source.folder}", None, Settings())
    server = place_of("from", URL, None, Settings())

    for each in (place, server):
        with pytest.raises(InvalidInput, match="the same"):
            asyncio.run(copy_all(each, each, lambda _: None))


def test_a_place_is_shown_without_its_secrets() -> None:
    assert place_of("from", URL, None, Settings()).shown == "postgresql://127.0.0.1:1/nothing"


def test_a_bucket_for_files_is_a_setting_of_that_end_alone() -> None:
    settings = Settings(blob_url="s3://ours")

    assert place_of("from", URL, None, settings).files.blob_url == "s3://ours"
    assert place_of("from", URL, "s3://other/folder", settings).files.blob_url == "s3://other/folder"
    assert place_of("from", "sqlite:/tmp/x", None, settings).files.blob_url is None
    assert place_of("from", "sqlite:/tmp/x", "s3://ours", settings).files.blob_url == "s3://ours"


def test_a_line_is_written_for_each_stage_and_then_now_and_then() -> None:
    now = [0.0]
    written: list[str] = []
    report = lines(lambda: now[0], written.append)
    for seconds, stage, memories in [
        (0.0, Stage.COPYING, 0),
        (1.9, Stage.COPYING, 1),
        (2.0, Stage.COPYING, 2),
        (2.1, Stage.COMPARING, 0),
        (3.9, Stage.COPYING, 3),
    ]:
        now[0] = seconds
        report(Progress(stage=stage, memories=memories, of_memories=9))

    assert written == ["copying: 0 of 9 memories", "copying: 2 of 9 memories", "comparing: 0 of 9 memories"]


def test_a_terminal_shows_a_bar(
    source: SqliteEnd, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    status, out, err = shell("--from", f"sqlite:{source.folder}", "--to", f"sqlite:{tmp_path / 'copy'}")

    assert status == 0
    assert out.startswith("copied ")
    assert "comparing" in err


def test_the_same_copy_again_goes_on_in_process(source: SqliteEnd, tmp_path: Path) -> None:
    ends = [place_of("from", f"sqlite:{each}", None, Settings()) for each in (source.folder, tmp_path / "copy")]
    stopped = 0

    def stop(progress: Progress) -> None:
        nonlocal stopped
        if progress.stage is Stage.COMPARING and not stopped:
            stopped += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(copy_all(ends[0], ends[1], stop))
    result = asyncio.run(copy_all(ends[0], ends[1], stop))

    assert isinstance(result, Copied)
    assert result.is_resumed
