"""What can go wrong on the client's side.

ApiqError
  Unreachable     no server answers, or not in time
  ProblemError    the server refused: code, status, errors
  JobFailed       the job that was waited for did not succeed
  DownloadError   what arrived is not what the server has
"""

from collections.abc import Mapping
from typing import Any

import httpx

PASSING = (502, 503)  # a server, or what it needs, restarts


class ApiqError(Exception):
    """Base of all; `code` is stable and machine readable."""

    may_pass = False  # with time, so that it may help to ask again
    retry_after_s: float | None = None  # what the server asks for

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Unreachable(ApiqError):
    def __init__(self, url: str, reason: httpx.RequestError) -> None:
        if isinstance(reason, httpx.ReadTimeout):
            within_s = reason.request.extensions["timeout"]["read"]
            message = f"{url} did not answer within {within_s:g} s; it may still be at work on it"
        else:
            message = (
                f"no apiq server answers at {url} ({reason}); start one with `apiq up`, "
                "or name another with APIQ_URL"
            )
        super().__init__("unreachable", message)
        self.may_pass = isinstance(reason, httpx.TransportError) and not isinstance(
            reason, httpx.UnsupportedProtocol
        )


class ProblemError(ApiqError):
    """The server's problem document (RFC 9457)."""

    def __init__(
        self, status: int, problem: Mapping[str, Any], *, retry_after_s: float | None = None
    ) -> None:
        detail = problem.get("detail") or problem.get("title") or f"the server answered {status}"
        hint = "; put a valid key into APIQ_API_KEY" if status == 401 else ""
        super().__init__(str(problem.get("code", f"http_{status}")), f"{detail}{hint}")
        self.status = status
        self.may_pass = status in PASSING
        self.retry_after_s = retry_after_s
        self.errors: list[dict[str, Any]] = list(problem.get("errors") or [])
        self.problem = dict(problem)


class JobFailed(ApiqError):
    def __init__(self, job_id: str, state: str, error: Mapping[str, Any] | None) -> None:
        error = error or {}
        super().__init__(
            str(error.get("code", state)),
            f"{job_id} {state}" + (f": {error['message']}" if error.get("message") else ""),
        )
        self.job_id = job_id
        self.state = state
        self.error = dict(error)


class DownloadError(ApiqError):
    def __init__(self, message: str) -> None:
        super().__init__("download_failed", message)
