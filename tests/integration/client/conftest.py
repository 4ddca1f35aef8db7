"""A real API process for the SDK and the command line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiq_client import Client
from jobs.settings import Settings
from tests.conftest import OpenColumn
from tests.integration.api.live import NO_HUB, Live, serve
from tests.integration.client.command import Command
from tests.tiny_models import make_tiny


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NO_HUB)
    for name in [name for name in os.environ if name.startswith("APIQ_")]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def live(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    open_column: OpenColumn,
    column_name: str,
) -> Iterator[Live]:
    with open_column(column_name) as column:
        settings = Settings(data_dir=tmp_path_factory.mktemp("live"), **column.addresses)
        with serve(settings, tiny_model) as live:
            yield live


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.url) as client:
        yield client


@pytest.fixture
def apiq(live: Live, tmp_path: Path) -> Command:
    return Command(live.url, tmp_path)
