"""Have patience with a server that is away: it restarts, or its database or its store does."""

import logging
import time

import httpx

from apiq_client.errors import ProblemError, Unreachable

log = logging.getLogger(__name__)  # Python prints a warning to stderr where no handler is set up

PATIENCE_S = 300.0  # of a long call: to follow, to wait for, to download
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 5.0


class Outage:
    """One for each long call: how long the server at `url` has been away, if it is."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._failures = 0  # in a row
        self._began: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def is_over(self) -> None:
        """The server is back."""
        self._failures = 0
        self._began = None
        self._pause_s = FIRST_PAUSE_S

    def endure(self, error: httpx.RequestError | ProblemError | Unreachable) -> None:
        """Sleep before the next try, for as long as the server asks for if it does.

        Raises what does not pass, and what has lasted for `PATIENCE_S`.
        """
        if isinstance(error, httpx.RequestError):
            error = Unreachable(self.url, error)
        now = time.monotonic()
        self._failures += 1
        self._began = self._began or now
        if not error.may_pass or now - self._began >= PATIENCE_S:
            raise error
        if self._failures == 2:  # a connection that only broke is made anew without a word
            log.warning(
                "no answer from %s; asking again for up to %.0f minutes", self.url, PATIENCE_S / 60
            )
        time.sleep(self._pause_s if error.retry_after_s is None else error.retry_after_s)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
