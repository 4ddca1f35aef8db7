"""Turns of what may take minutes: previews with a model's tokenizer, downloads from the hub.

Each holds a thread of the API, a core or the way to the hub. Who waits for a turn waits in the
event loop: the threads are left to all other requests.
"""

import asyncio

from api.problems import ApiError

AT_ONCE = 4  # of the 40 threads
PATIENCE_S = 30.0  # with those before it


class Turns:
    """`async with turns`: a few are inside at a time. Used on one event loop."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> None:
        """Raises `ApiError(not_ready)` if there is none to be had within `PATIENCE_S`."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._free.acquire()
        except TimeoutError:
            raise ApiError(
                "not_ready", "other previews and downloads take up what there is for them"
            ) from None

    async def __aexit__(self, *exc: object) -> None:
        self._free.release()
