"""Jobs that waited too long for a worker fail, also where there is no worker to see to it; and
what killed uploads left behind goes."""

import threading

import structlog

from jobs import maintenance
from jobs.database import Database
from jobs.datasets.upload import prune_uploads
from jobs.settings import Settings

STOP_WITHIN_S = 2.0

log = structlog.get_logger(__name__)


class Expiry:
    """A thread of every API process. Any number of them may look at the same jobs."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="expiry", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Not for long: a locked database must not hold up the end of the process."""
        self._end.set()
        self._thread.join(STOP_WITHIN_S)

    def _run(self) -> None:
        while not self._end.wait(self._settings.sweep_interval_s):
            prune_uploads(self._settings)
            try:
                with self._database.begin() as connection:
                    expired = maintenance.expire_waiting(connection)
            except Exception:  # the database is away: the next round may find it
                log.exception("expiry_broke")
            else:
                for job in expired:
                    log.warning("job_expired", job=job.id, max_pending_s=job.max_pending_s)
