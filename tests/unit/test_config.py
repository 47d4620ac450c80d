"""Settings: one table, four sources, and errors that say what to do."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from polymem.config import TABLE, Loaded, Settings, load
from polymem.errors import SettingsInvalid


def read(
    tmp_path: Path,
    flags: Mapping[str, object] | None = None,
    environment: dict[str, str] | None = None,
    file: str | None = None,
) -> Loaded:
    if file is not None:
        (tmp_path / "polymem.toml").write_text(file, encoding="utf-8")
    return load({"data_dir": tmp_path, **(flags or {})}, environment=environment or {})


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    file, environment, flags = "port = 1001", {"POLYMEM_PORT": "1002"}, {"port": "1003"}

    assert read(tmp_path).settings.port == 8765
    assert read(tmp_path, file=file).settings.port == 1001
    assert read(tmp_path, environment=environment, file=file).settings.port == 1002
    assert read(tmp_path, flags, environment, file).settings.port == 1003


def test_each_value_tells_where_it_comes_from(tmp_path: Path) -> None:
    loaded = read(tmp_path, {"host": "::1"}, {"POLYMEM_PORT": "1"}, "log_format = 'json'")

    assert loaded.origins["host"] == "command line (--host)"
    assert loaded.origins["port"] == "environment (POLYMEM_PORT)"
    assert loaded.origins["log_format"] == f"file ({tmp_path / 'polymem.toml'})"
    assert loaded.origins["log_level"] == "default"


def test_every_row_has_a_default_that_its_own_reader_accepts_and_shows_again() -> None:
    settings = Settings()

    for row in TABLE:
        value = getattr(settings, row.name)
        assert row.kind.read(value) == value
        if value is not None:
            assert row.kind.read(row.kind.show(value)) == value


def test_all_kinds_of_values_are_read_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "POLYMEM_DIALECTS": " mem9 , mem9 ",
        "POLYMEM_DIALECT_PREFIXES": "mem9=/apis/mem9",
        "POLYMEM_METRICS_OPEN_ON_LOOPBACK": "off",
        "POLYMEM_VECTOR_MEMORY_BYTES": "256MiB",
        "POLYMEM_SHUTDOWN_GRACE_SECONDS": "1.5",
        "POLYMEM_IMPORTANCE_THRESHOLD": "0.25",
        "POLYMEM_RESET_ENABLED": "yes",
        "POLYMEM_CORS_ORIGINS": "https://a.example,http://localhost:3000",
        "POLYMEM_MODEL_DIR": "~/model",
        "POLYMEM_KEY": "pm_0123456789abcdef",
        "POLYMEM_PROVISIONING": "closed",
    }

    settings = read(tmp_path, environment=environment).settings

    assert settings.dialects == ("mem9",)
    assert settings.dialect_prefixes == {"mem9": "/apis/mem9"}
    assert settings.metrics_open_on_loopback is False
    assert settings.vector_memory_bytes == 256 * 1024 * 1024
    assert settings.shutdown_grace_seconds == 1.5
    assert (settings.importance_threshold, settings.reset_enabled) == (0.25, True)
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.model_dir == Path.home() / "model"
    assert settings.key == "pm_0123456789abcdef"
    assert settings.provisioning == "closed"


def test_all_kinds_of_values_are_read_from_the_file(tmp_path: Path) -> None:
    file = """
        dialects = ["mem9"]
        metrics_open_on_loopback = false
        shutdown_grace_seconds = 3
        vector_memory_bytes = "1GB"
        cors_origins = ["*"]

        [dialect_prefixes]
        mem9 = "/m"
    """

    settings = read(tmp_path, file=file).settings

    assert settings == Settings(
        data_dir=tmp_path,
        dialects=("mem9",),
        metrics_open_on_loopback=False,
        shutdown_grace_seconds=3.0,
        vector_memory_bytes=10**9,
        cors_origins=("*",),
        dialect_prefixes={"mem9": "/m"},
    )


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("PORT", "many", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "", "a whole number from 0 to 65535"),
        ("HOST", "", "one line of text"),
        ("HOST", "a\nb", "one line of text"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("IMPORTANCE_THRESHOLD", "1.1", "a number from 0 to 1"),
        ("RESET_ENABLED", "perhaps", "true or false"),
        ("SHUTDOWN_GRACE_SECONDS", "-1", "a number of seconds from 0 to 3600"),
        ("SHUTDOWN_GRACE_SECONDS", "nan", "a number of seconds from 0 to 3600"),
        ("SHUTDOWN_GRACE_SECONDS", "soon", "a number of seconds from 0 to 3600"),
        ("METRICS_OPEN_ON_LOOPBACK", "maybe", "true or false"),
        ("VECTOR_MEMORY_BYTES", "10", "a number of bytes, 1048576 or more"),
        ("VECTOR_MEMORY_BYTES", "1 parsec", "a number of bytes"),
        ("VECTOR_MEMORY_BYTES", "²MB", "a number of bytes"),
        ("DIALECTS", "mem9,other", "a list of mem9"),
        ("DIALECT_PREFIXES", "mem9", "pairs such as mem9=/apis/mem9"),
        ("DIALECT_PREFIXES", "mem9=apis", "pairs such as mem9=/apis/mem9"),
        ("DIALECT_PREFIXES", "other=/apis", "pairs such as mem9=/apis/mem9"),
        ("CORS_ORIGINS", "example.org", "a list of origins"),
        ("CORS_ORIGINS", "https://example.org/page", "a list of origins"),
        ("MODEL_DIR", " ", "a path"),
        ("DATA_DIR", "", "a path"),
        ("BLOB_URL", "bucket", "a URL such as s3://bucket"),
        ("BLOB_URL", "https://bucket", "a URL such as s3://bucket"),
        ("S3_ENDPOINT", "storage:9000", "a URL such as https://"),
        ("S3_REGION", "", "one line of text"),
        ("DATABASE_CONNECTIONS", "0", "a whole number from 1 to 200"),
        ("WORKER_CONCURRENCY", "-1", "a whole number from 0 to 64"),
    ],
)
def test_a_bad_value_is_refused_naming_setting_source_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        load({}, environment={f"POLYMEM_{variable}": value})

    message = refused.value.message
    assert variable.lower() in message
    assert f"environment (POLYMEM_{variable})" in message
    assert allowed in message
    assert repr(value) in message


@pytest.mark.parametrize(
    "line",
    [
        "port = true",
        "port = 1.5",
        "shutdown_grace_seconds = true",
        "vector_memory_bytes = 1.5",
        "vector_memory_bytes = true",
        "host = 5",
        "log_level = 5",
        "dialects = 5",
        "dialects = [5]",
        "dialect_prefixes = 5",
        "dialect_prefixes = { mem9 = 5 }",
        "metrics_open_on_loopback = 1",
        "model_dir = 5",
        "key = 'short'",
    ],
)
def test_a_value_of_the_wrong_type_in_the_file_is_refused_naming_the_file(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"setting [a-z_]+: .* from file \(.*polymem\.toml\) is not allowed"):
        read(tmp_path, file=line)


def test_a_refused_secret_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        read(tmp_path, environment={"POLYMEM_KEY": "tell-nobody"})

    assert "tell-nobody" not in refused.value.message
    assert "16 to 256 letters, digits or any of" in refused.value.message


@pytest.mark.parametrize(
    "url",
    ["mysql://tell:nobody@db/x", "postgresql:", "postgresql://", "tell nobody", "", "postgresql://tell:no body@db/x"],
)
def test_a_refused_database_url_is_not_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsInvalid, match="allowed: a URL such as postgresql://") as refused:
        read(tmp_path, environment={"POLYMEM_DATABASE_URL": url})

    assert "nobody" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://polymem:p%40ss@db.example:5432/memories?sslmode=require",
            "postgresql://db.example:5432/memories",
        ),
        ("postgres://polymem:a@b@one:5432,two:5433/memories", "postgres://one:5432,two:5433/memories"),
        ("postgresql:///memories?host=/run/postgresql&password=secret", "postgresql:///memories"),
        ("postgresql://user:secret@db#secret", "postgresql://db"),
    ],
)
def test_of_a_database_url_only_the_place_is_shown(tmp_path: Path, url: str, shown: str) -> None:
    row = next(row for row in TABLE if row.name == "database_url")
    loaded = read(tmp_path, environment={"POLYMEM_DATABASE_URL": url})

    assert loaded.settings.database_url == url
    assert loaded.shown(row) == shown


def test_where_files_go_is_read_and_its_secret_masked(tmp_path: Path) -> None:
    environment = {
        "POLYMEM_BLOB_URL": "s3://bucket/folder",
        "POLYMEM_S3_ENDPOINT": "http://127.0.0.1:9000",
        "POLYMEM_S3_ACCESS_KEY_ID": "reader",
        "POLYMEM_S3_SECRET_ACCESS_KEY": "of the reader",
    }
    loaded = read(tmp_path, environment=environment)

    shown = {row.name: loaded.shown(row) for row in TABLE}
    assert (shown["blob_url"], shown["s3_endpoint"]) == ("s3://bucket/folder", "http://127.0.0.1:9000")
    assert (shown["s3_access_key_id"], shown["s3_secret_access_key"]) == ("reader", "********")
    assert loaded.settings.s3_secret_access_key == "of the reader"


def test_settings_made_in_a_program_are_checked_too() -> None:
    with pytest.raises(SettingsInvalid, match="setting port"):
        Settings(port=70_000)


def test_a_secret_is_shown_masked_and_an_unset_one_empty(tmp_path: Path) -> None:
    row = next(row for row in TABLE if row.name == "key")

    assert read(tmp_path).shown(row) == ""
    assert read(tmp_path, environment={"POLYMEM_KEY": "pm_0123456789abcdef"}).shown(row) == "********"


def test_an_unknown_variable_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"unknown setting POLYMEM_PROT .*did you mean POLYMEM_PORT\?"):
        read(tmp_path, environment={"POLYMEM_PROT": "1"})


def test_variables_of_other_programs_are_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, environment={"PORT": "1", "POLYMER_PORT": "2"}).settings.port == 8765


def test_an_unknown_key_in_the_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"unknown setting log_levle in .*; did you mean log_level\?"):
        read(tmp_path, file="log_levle = 'info'")


def test_a_name_that_resembles_nothing_lists_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="known: blob_url, cors_origins, data_dir"):
        read(tmp_path, file="zzzz = 1")


def test_a_file_that_is_not_toml_is_refused_naming_the_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"polymem\.toml: not TOML: .*line 1"):
        read(tmp_path, file="port 8765")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "polymem.toml").write_bytes(b"host = '\xff'")

    with pytest.raises(SettingsInvalid, match="not TOML"):
        load({"data_dir": tmp_path}, environment={})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "polymem.toml").mkdir()

    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load({"data_dir": tmp_path}, environment={})


def test_a_named_file_is_read_instead_and_may_name_the_data_directory(tmp_path: Path) -> None:
    named = tmp_path / "elsewhere.toml"
    named.write_text(f"data_dir = '{tmp_path / 'there'}'\nport = 7", encoding="utf-8")

    by_flag = load({}, config=named, environment={})
    by_variable = load({}, environment={"POLYMEM_CONFIG": str(named)})

    assert by_flag == by_variable
    assert by_flag.settings.data_dir == tmp_path / "there"
    assert by_flag.settings.port == 7
    assert by_flag.config_file == named


def test_a_named_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="there is no such file"):
        load({}, config=tmp_path / "none.toml", environment={})


def test_the_file_in_the_data_directory_cannot_name_another_data_directory(tmp_path: Path) -> None:
    (tmp_path / "polymem.toml").write_text("data_dir = '/elsewhere'", encoding="utf-8")

    with pytest.raises(SettingsInvalid, match="setting data_dir"):
        load({}, environment={"POLYMEM_DATA_DIR": str(tmp_path)})


def test_the_data_directory_follows_the_xdg_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert load({}, environment={}).settings.data_dir == tmp_path / "polymem"

    monkeypatch.setenv("XDG_DATA_HOME", "relative/paths/do/not/count")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({}, environment={}).settings.data_dir == tmp_path / ".local" / "share" / "polymem"
