"""Who waits for a job to change: one question to the database for all of them together.

Any process may write to a row, so the rows are polled. What that costs does not grow with the
number of clients that follow a job while nothing happens.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from jobs import repository
from jobs.database import Database

POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, eq=False)
class _Waiter:
    job_id: str
    event_seq: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Watcher:
    """Of one app; used on its event loop only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: set[_Waiter] = set()
        self._polling: asyncio.Task[None] | None = None

    async def changed(self, job_id: str, event_seq: int, timeout_s: float) -> bool:
        """Wait until the job's latest event is another one than `event_seq`; false: it is not."""
        waiter = _Waiter(job_id, event_seq)
        self._waiters.add(waiter)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            await asyncio.wait_for(waiter.woken.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    async def close(self) -> None:
        """Ask no more; wait for the question that is on its way."""
        if self._polling is not None and not self._polling.done():
            self._polling.cancel()
            await asyncio.wait([self._polling])

    async def _poll(self) -> None:
        while self._waiters:
            waiters = list(self._waiters)
            try:
                latest = await run_in_threadpool(self._latest, {w.job_id for w in waiters})
            except SQLAlchemyError:
                latest = {}  # whoever waits asks for itself, and says what is wrong
            for waiter in waiters:
                if latest.get(waiter.job_id) != waiter.event_seq:
                    waiter.woken.set()
            await asyncio.sleep(POLL_INTERVAL_S)

    def _latest(self, job_ids: Iterable[str]) -> dict[str, int]:
        with self._database.read() as connection:
            return repository.latest_events(connection, job_ids)
