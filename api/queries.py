"""A query string that means one thing, whoever reads it."""

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem_response
from api.validation import FieldError, quoted


class CheckQuery:
    """ASGI middleware: 422 for a parameter that is given twice, and for U+0000, which no record
    can hold."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wrong = None
        if scope["type"] == "http" and scope["query_string"]:
            wrong = _check(QueryParams(scope["query_string"]))
        if wrong is None:
            await self.app(scope, receive, send)
        else:
            response = problem_response("invalid_request", wrong.detail, errors=[wrong])
            await response(scope, receive, send)


def _check(query: QueryParams) -> FieldError | None:
    seen: set[str] = set()
    for name, value in query.multi_items():
        short = name if len(name) <= 80 and name.isprintable() else quoted(name)
        if "\x00" in name + value:
            legal = "Unicode characters without U+0000"
            return FieldError(
                pointer=f"?{short}", detail=f"{short} is {quoted(value)}; legal: {legal}"
            )
        if name in seen:
            return FieldError(pointer=f"?{short}", detail=f"{short} is given twice; legal: once")
        seen.add(name)
    return None
