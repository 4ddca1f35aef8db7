"""What can go wrong on the client's side.

ApiqError
  Unreachable     no server answers
  ProblemError    the server refused: code, status, errors
  JobFailed       the job that was waited for did not succeed
  DownloadError   what arrived is not what the server has
"""

from collections.abc import Mapping
from typing import Any


class ApiqError(Exception):
    """Base of all; `code` is stable and machine readable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Unreachable(ApiqError):
    def __init__(self, url: str, reason: object) -> None:
        super().__init__(
            "unreachable",
            f"no apiq server answers at {url} ({reason}); start one with `apiq up`, "
            "or name another with APIQ_URL",
        )


class ProblemError(ApiqError):
    """The server's problem document (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        detail = problem.get("detail") or problem.get("title") or f"the server answered {status}"
        hint = "; put a valid key into APIQ_API_KEY" if status == 401 else ""
        super().__init__(str(problem.get("code", f"http_{status}")), f"{detail}{hint}")
        self.status = status
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
