"""Tell what a server answered from what it refused."""

from typing import TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from apiq_client.errors import ApiqError, ProblemError

Record = TypeVar("Record")

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


def parse(kind: type[Record], response: httpx.Response) -> Record:
    """What a success says; `ApiqError(unexpected_answer)` if that is not a `kind`."""
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        raise unexpected(response, error.errors()[0]["msg"]) from None


def unexpected(response: httpx.Response, why: str) -> ApiqError:
    return ApiqError(
        "unexpected_answer",
        f"{response.url} does not answer as an apiq server does ({why}); is APIQ_URL right?",
    )


def _retry_after_s(response: httpx.Response) -> float | None:
    """What the server asks for, within reason."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), MAX_RETRY_AFTER_S) if asked.isdecimal() else None
