"""A server on a real socket, with little patience."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.conftest import OpenColumn
from tests.integration.api.live import Live, serve

CLIENT_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    open_column: OpenColumn,
    column_name: str,
) -> Iterator[Live]:
    with open_column(column_name) as column:
        settings = Settings(
            data_dir=tmp_path_factory.mktemp("live"),
            client_timeout_s=CLIENT_TIMEOUT_S,
            **column.addresses,
        )
        with serve(settings, tiny_model) as live:
            yield live


@pytest.fixture(scope="module")
def artifacts(live: Live) -> str:
    return str(live.finished({"model/a.bin": b"0123456789"})["urls"]["artifacts"])
