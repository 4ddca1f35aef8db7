"""Where things are when nothing is said, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from jobs.artifacts import open_store
from jobs.artifacts.directory import DirectoryStore
from jobs.settings import Settings, SettingsError, load_settings

DATABASE = "sqlite:///file, postgresql://user:password@host/name"
BROKER = "redis://host:6379/0, amqp://host, filesystem://"
ARTIFACTS = "file:///directory, s3://bucket/prefix"


def test_everything_lies_under_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/apiq.db"
    assert settings.artifacts_url == f"file://{tmp_path}/artifacts"
    assert settings.models_dir == tmp_path / "models"
    assert settings.broker_url == "filesystem://"


def test_a_directory_whose_name_means_something_in_a_url(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "a b#c?d%41")
    assert make_url(settings.database_url).database == str(settings.data_dir / "apiq.db")
    store = open_store(settings)
    assert isinstance(store, DirectoryStore)
    assert store.root == settings.data_dir / "artifacts"


def test_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APIQ_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("APIQ_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("APIQ_DATABASE_URL", "postgresql+psycopg://db/apiq")
    settings = load_settings()
    assert settings.data_dir == tmp_path / "data"
    assert settings.models_dir == tmp_path / "models"
    assert settings.database_url == "postgresql+psycopg://db/apiq"


def test_a_relative_directory_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("here")).data_dir == tmp_path / "here"


def test_settings_survive_the_way_to_the_child(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path / "m", device="cpu")
    sent = settings.model_dump(mode="json", exclude={"database_url", "broker_url"})
    assert Settings(**sent) == settings


def test_a_database_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="begins with 'mysql'; legal: sqlite:///file"):
        Settings(data_dir=tmp_path, database_url="mysql://user:password@host/apiq")


def test_the_reference_tells_every_setting() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `APIQ_")]
    assert rows == [
        f"| `APIQ_{name.upper()}` | {default_of(name)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def default_of(name: str) -> str:
    default = Settings.model_fields[name].default
    return "" if default in ("", None, (), Path()) else f"`{default}`"


def test_a_beat_that_is_slower_than_the_lease_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at most half of APIQ_LEASE_TTL_S"):
        Settings(data_dir=tmp_path, lease_ttl_s=10, heartbeat_interval_s=6)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("LEASE_TTL_S", "abc", "is 'abc'; legal: a valid number"),
        ("LEASE_TTL_S", "-1", "is '-1'; legal: greater than 0"),
        ("LEASE_TTL_S", "inf", "is 'inf'; legal: a finite number"),
        ("PORT", "70000", "is '70000'; legal: less than or equal to 65535"),
        ("SECRET_KEY", "canary", "is not legal; legal: 32 characters or more"),
        ("DEVICE", "gpu", "is 'gpu'; legal: What jobs run on: `auto`, `cpu`, `cuda` or `cuda:1`."),
        ("DATABASE_URL", "mysql://u:canary@h/x", "begins with 'mysql'; legal: " + DATABASE),
        ("DATABASE_URL", "canary", "is not a URL; legal: " + DATABASE),
        (
            "DATABASE_URL",
            "postgresql://u:canary@h:port/x",
            "is not the address of a database; legal: " + DATABASE,
        ),
        ("DATABASE_URL", "sqlite://", "is not the address of a database; legal: " + DATABASE),
        ("BROKER_URL", "nonsense://canary", "begins with 'nonsense'; legal: " + BROKER),
        ("ARTIFACTS_URL", "ftp://canary", "begins with 'ftp'; legal: " + ARTIFACTS),
        ("ARTIFACTS_URL", "s3://[canary", "is not a URL; legal: " + ARTIFACTS),
        ("S3_PUBLIC_URL", "localhost:9000", "is not a URL; legal: https://host"),
    ],
)
def test_what_is_not_legal_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(f"APIQ_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == f"APIQ_{name} {line}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://u:p%40ss@[::1]:5432/apiq?sslmode=require"),
        ("DATABASE_URL", "sqlite:///apiq.db"),
        ("BROKER_URL", "sqla+sqlite:///broker.db"),
        ("BROKER_URL", "amqp://guest@rabbit//"),
        ("ARTIFACTS_URL", "s3://bucket"),
        ("ARTIFACTS_URL", "file:///a%20directory"),
        ("S3_PUBLIC_URL", "http://127.0.0.1:9000"),
    ],
)
def test_addresses_that_are_legal(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"APIQ_{name}", value)
    assert getattr(load_settings(), name.lower()) == value


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL"])
def test_a_secret_that_is_not_legal_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("APIQ_SECRET_KEY", "canary" if name == "SECRET_KEY" else "canary" * 9)
    monkeypatch.setenv("APIQ_PORT", "canary-free")
    monkeypatch.setenv("APIQ_DATABASE_URL", "sqlite:///canary")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "APIQ_PORT is 'canary-free'; legal: a valid integer" in str(caught.value)
    assert "canary" not in str(caught.value).replace("canary-free", "")
    assert ("APIQ_SECRET_KEY is not legal; " in str(caught.value)) is (name == "SECRET_KEY")


def test_what_two_settings_say_together_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APIQ_SECRET_KEY", "canary" * 9)
    monkeypatch.setenv("APIQ_HEARTBEAT_INTERVAL_S", "50")
    with pytest.raises(
        SettingsError, match=r"^APIQ_HEARTBEAT_INTERVAL_S is 50.0; legal: "
    ) as caught:
        load_settings()
    assert "canary" not in str(caught.value)
