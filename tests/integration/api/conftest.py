"""A real app on real records and a real store, and a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jobs import texts
from jobs.database import Database
from jobs.settings import Settings
from tests.columns import Column
from tests.conftest import OpenColumn
from tests.integration.api.hub_server import Hub, serve_hub
from tests.integration.api.live import Live, serve
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


@pytest.fixture(scope="module")
def live_settings() -> dict[str, Any]:
    """What a module's own server has otherwise than by default."""
    return {}


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    open_column: OpenColumn,
    column_name: str,
    live_settings: dict[str, Any],
) -> Iterator[Live]:
    """A server of the module on a real socket."""
    with open_column(column_name) as column:
        data_dir = tmp_path_factory.mktemp("live")
        settings = Settings(data_dir=data_dir, **column.addresses, **live_settings)
        with serve(settings, tiny_model) as live:
            yield live
