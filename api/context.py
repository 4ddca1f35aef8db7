"""What every route works with, made once an app."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, cast

from fastapi import Depends, Request

from api.jobs.watch import Watcher
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.doorbell import Bell
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
    def watcher(self) -> Watcher:
        return Watcher(self.database)


async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


Ctx = Annotated[Context, Depends(_context)]
