"""Previews and downloads that take long: they wait for each other, and nobody waits for them."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any

import anyio.to_thread
import pytest

from api import turns
from tests.integration.api.hub_server import Hub
from tests.integration.api.support import Service

REPOSITORY = "org/sums"
FILE = b'{"question": "What is 1?", "answer": "1"}\n'
DEADLINE_S = 8.0  # the client of the hub gives up after 10


@pytest.fixture
def held(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A hub that sends no file before this is set, and little patience here."""
    monkeypatch.setattr(turns, "PATIENCE_S", 0.5)
    folder = hub.root / "datasets" / REPOSITORY
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(FILE)
    hub.held = threading.Event()
    yield hub.held
    hub.held.set()


def test_other_routes_answer_meanwhile(service: Service, hub: Hub, held: threading.Event) -> None:
    dataset = service.upload(FILE, "application/jsonl")["id"]
    assert service.http.portal is not None
    service.http.portal.call(leave_few_threads)
    with ThreadPoolExecutor(3 * turns.AT_ONCE) as pool:

        def get(path: str) -> Future[Any]:
            return pool.submit(service.http.get, path)

        fetches = [
            pool.submit(service.http.post, "/datasets", json={"hub": REPOSITORY})
            for _ in range(2 * turns.AT_ONCE)
        ]
        try:
            eventually(lambda: downloads(hub) >= turns.AT_ONCE)
            answers = [get("/datasets"), get(f"/datasets/{dataset}/preview")]
            assert [x.result(DEADLINE_S).status_code for x in answers] == [200, 200]
            preview = get(f"/datasets/{dataset}/preview?base=tiny").result(DEADLINE_S)
            service.refused(preview, 503, "not_ready")
            assert "retry-after" in preview.headers
            for fetch in islice(as_completed(fetches, DEADLINE_S), turns.AT_ONCE):
                service.refused(fetch.result(), 503, "not_ready")
        finally:
            held.set()
        codes = sorted(fetch.result().status_code for fetch in fetches)
    assert codes == [201] * turns.AT_ONCE + [503] * turns.AT_ONCE
    preview = service.http.get(f"/datasets/{dataset}/preview", params={"base": "tiny"})
    assert preview.status_code == 200, preview.text  # the turns were given back


def downloads(hub: Hub) -> int:
    """So many the hub was asked for."""
    return sum(how == "GET" and path.endswith("/train.jsonl") for how, path in hub.requests)


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def leave_few_threads() -> None:
    """What they all wait for is the same as with 40."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = turns.AT_ONCE + 2
