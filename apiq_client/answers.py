"""Tell what a server answered from what it refused."""

import httpx

from apiq_client.errors import ProblemError

MAX_RETRY_AFTER_S = 10.0


def raise_for_problem(response: httpx.Response) -> httpx.Response:
    """Return a success; turn everything else into `ProblemError`."""
    if response.is_success:
        return response
    response.read()
    try:
        problem = response.json()
    except ValueError:
        problem = None
    raise ProblemError(
        response.status_code,
        problem if isinstance(problem, dict) else {},
        retry_after_s=_retry_after_s(response),
    )


def _retry_after_s(response: httpx.Response) -> float | None:
    """What the server asks for, within reason."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), MAX_RETRY_AFTER_S) if asked.isdecimal() else None
