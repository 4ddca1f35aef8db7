"""What every route works with, made once an app."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, cast

from fastapi import Depends, Request

from api.jobs.watch import Watcher
from api.readiness import Readiness
from api.together import Together
from api.turns import Turns
from jobs import intake, keys, repository, texts
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.errors import JobNotFound
from jobs.intake import Order
from jobs.job import Job
from jobs.keys import ApiKey
from jobs.repository import Wanted
from jobs.settings import Settings


@dataclass(frozen=True)
class Context:
    settings: Settings
    database: Database
    store: ArtifactStore

    @cached_property
    def bell(self) -> Bell:
        return Bell(self.settings)

    @cached_property
    def turns(self) -> Turns:
        return Turns()

    @cached_property
    def watcher(self) -> Watcher:
        return Watcher(self.database)

    @cached_property
    def shown(self) -> Together[Wanted, Job]:
        """The jobs that are asked for at the same moment, from one query."""

        def show(wanted: Sequence[Wanted]) -> list[Job | JobNotFound]:
            with self.database.glance() as connection:
                return repository.get_many(connection, wanted)

        # SQLite's readers wait for nobody: to look a row up takes less than to wake a thread
        return Together(show, waits=self.database.is_postgresql)

    @cached_property
    def keyed(self) -> Together[str, ApiKey | None]:
        """The API keys that are shown at the same moment."""

        def know(texts: Sequence[str]) -> list[ApiKey | None]:
            with self.database.glance() as connection:
                return [keys.authenticate(connection, text, self.settings) for text in texts]

        return Together(know, waits=self.database.is_postgresql)

    @cached_property
    def ready(self) -> Together[None, None]:
        """Raises an `ApiError` if no job can be accepted now."""
        return Together(Readiness(self.database, self.store).check, waits=True)

    @cached_property
    def default_source(self) -> Together[None, str]:
        """What jobs are calibrated on that name no text. It may ask the hub: once for all, and
        apart from what needs no hub."""

        def ask(asked: Sequence[None]) -> list[str]:
            return [texts.default_source(self.settings)] * len(asked)

        return Together(ask, waits=True)

    @cached_property
    def accepted(self) -> Together[Order, Job]:
        """The jobs that are submitted at the same moment, in one commit: none is answered before
        it, and the wait for the disk is shared."""

        def submit(orders: Sequence[Order]) -> list[Job | Exception]:
            return intake.submit_all(self.database, orders, self.settings)

        return Together(submit, waits=True)


def context_of(request: Request) -> Context:
    """Of the app that a request came to."""
    return cast(Context, request.app.state.context)


async def _context(request: Request) -> Context:
    return context_of(request)


Ctx = Annotated[Context, Depends(_context)]
