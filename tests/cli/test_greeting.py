"""What a server tells the person who started it about keys and data."""

from pathlib import Path

import pytest

from polymem.bootstrap import FirstKey, ServerRecord
from polymem.cli.serving import greeting
from polymem.config import Settings

SECRET = "pm_a-secret-of-this-test"
URL = "postgresql://polymem:hidden@db.example/memories"


def lines(
    key: FirstKey, *, is_terminal: bool = False, database: str = "", preset: str | None = None, place: str | None = None
) -> list[str]:
    record = ServerRecord(
        url="http://127.0.0.1:1", pid=1, version="1", started_at="", apis={"mem9": "http://m"}, database=database
    )
    given = Settings(data_dir=Path("/data"), key=preset, database_url=place)
    return greeting(record, key, (), given, is_terminal=is_terminal)


@pytest.mark.parametrize(("is_terminal", "is_shown"), [(True, True), (False, False)])
def test_a_new_secret_is_shown_to_a_terminal_only(*, is_terminal: bool, is_shown: bool) -> None:
    told = lines(FirstKey(Path("/data/key"), SECRET), is_terminal=is_terminal)
    assert (f"  key   {SECRET}" in told) is is_shown
    assert "  key file  /data/key" in told


def test_a_key_that_the_settings_give_is_named_and_not_shown() -> None:
    made = lines(FirstKey(None, SECRET), preset=SECRET)
    later = lines(FirstKey(None, None), preset=SECRET)
    assert "  key   the one that the settings give, which was made the first key" in made
    assert "  key   the one that the settings give" in later
    assert SECRET not in "\n".join(made + later)


def test_a_key_that_opens_nothing_here_is_said_to() -> None:
    told = lines(FirstKey(None, None, is_preset_refused=True), preset=SECRET)
    assert "  key   made earlier; `polymem keys create` makes another" in told
    assert "  key   the one that the settings give opens nothing here: another one was made the first key" in told


def test_of_the_database_only_the_place_is_told() -> None:
    told = lines(FirstKey(None, None), database="postgresql://db.example/memories", place=URL)
    assert "  data  postgresql://db.example/memories" in told
    assert "hidden" not in "\n".join(told)
