"""A server with little patience, and artifacts to ask it for."""

from typing import Any

import pytest

from tests.integration.api.live import Live

CLIENT_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def live_settings() -> dict[str, Any]:
    return {"client_timeout_s": CLIENT_TIMEOUT_S}


@pytest.fixture(scope="module")
def artifacts(live: Live) -> str:
    return str(live.finished({"model/a.bin": b"0123456789"})["urls"]["artifacts"])
