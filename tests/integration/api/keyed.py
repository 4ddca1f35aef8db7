"""A service whose callers have keys, and may call all at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
from pydantic import SecretStr

from jobs import keys
from jobs.keys import DEFAULT_SCOPES
from tests.integration.api.support import Service

SECRET_KEY = "a secret of the server, 32 or more"
THREADS = 8
BODY = {"model": "tiny", "bits": 2}
TEXT = {"content-type": "text/plain"}


def at_once(call: Callable[[], httpx2.Response]) -> list[httpx2.Response]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(THREADS)]]


class Keyed:
    """The service with API keys; `ada` and `bob` call it."""

    def __init__(self, service: Service, **changes: Any) -> None:
        self.service = service
        context = service.context
        settings = context.settings.model_copy(
            update={"secret_key": SecretStr(SECRET_KEY)} | changes
        )
        service.app.state.context = type(context)(settings, context.database, context.store)
        self.headers = {}
        with context.database.begin() as connection:
            for owner in ("ada", "bob"):
                _, text = keys.create(
                    connection, name="test", owner=owner, scopes=DEFAULT_SCOPES, settings=settings
                )
                self.headers[owner] = {"authorization": f"Bearer {text}"}

    def submit(self, owner: str, key: str | None = None, **fields: Any) -> httpx2.Response:
        headers = self.headers[owner] | ({"idempotency-key": key} if key else {})
        return self.service.http.post("/jobs", json=BODY | fields, headers=headers)

    def upload(self, owner: str, content: bytes) -> httpx2.Response:
        headers = self.headers[owner] | TEXT
        return self.service.http.post("/datasets", content=content, headers=headers)
