"""Can jobs be accepted: does the database answer, does the artifact store take writes."""

import time
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.problems import ApiError
from jobs import repository
from jobs.artifacts import ArtifactStore
from jobs.database import Database

STORE_ANSWER_TTL_S = 5.0  # its check writes; anybody may ask for it

log = structlog.get_logger(__name__)


class Readiness:
    """A call of `check` answers everybody who asks meanwhile (`Together`), so that a part which
    hangs holds one thread and not one a caller."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store
        self._store_answer: ApiError | None = None
        self._stale_at = 0.0

    def check(self, asked: Sequence[None]) -> list[Exception | None]:
        """For each None, or the `ApiError` that says what is away."""
        return [self._what_the_database_says() or self._what_the_store_says()] * len(asked)

    def _what_the_database_says(self) -> ApiError | None:
        try:
            with self._database.read() as connection:
                repository.list_jobs(connection, limit=1)
        except SQLAlchemyError as error:
            return _not_ready("the database does not answer, or has no tables", error)
        return None

    def _what_the_store_says(self) -> ApiError | None:
        if time.monotonic() >= self._stale_at:
            self._store_answer = None
            try:
                self._store.check()
            except OSError as error:
                self._store_answer = _not_ready("the artifact store takes no writes", error)
            self._stale_at = time.monotonic() + STORE_ANSWER_TTL_S
        return self._store_answer


def _not_ready(what: str, error: Exception) -> ApiError:
    # not the error's words: they may tell where it is, and anybody may ask
    log.warning("not_ready", error=str(error)[:300])
    return ApiError("not_ready", f"{what}; the log of the API says why")
