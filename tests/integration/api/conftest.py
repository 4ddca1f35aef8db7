"""A real app on real records and a real store, and a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jobs import texts
from jobs.database import Database
from jobs.settings import Settings
from tests.columns import Column
from tests.integration.api.hub_server import Hub, serve_hub
from tests.integration.api.support import Service, place_model
from tests.tiny_models import make_tiny

NO_HUB = "http://127.0.0.1:9"  # the discard port: nothing answers, at once


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test ever asks the real hub, or leaves anything in the cache of whoever runs it."""
    monkeypatch.setenv("HF_ENDPOINT", NO_HUB)
    monkeypatch.setattr(texts, "_hub_answers", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def settings(tmp_path: Path, column: Column) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        hub_timeout_s=5.0,
        max_dataset_bytes=100_000,
        **column.addresses,
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def service(settings: Settings, database: Database, tiny_model: Path) -> Iterator[Service]:
    place_model(settings.models_dir, tiny_model, "tiny")
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as http:
        yield Service(app.state.context, app, http)
