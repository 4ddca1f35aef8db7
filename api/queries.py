"""A query string that means one thing, whoever reads it."""

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem_response
from api.validation import FieldError, did_you_mean, quoted

ANY_KEY = ".KEY"  # how the name of a family of parameters ends, as of `label.KEY`


class CheckQuery:
    """ASGI middleware: 422 for a parameter that the route does not have or that is given twice,
    and for U+0000, which no record can hold."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wrong = None
        if scope["type"] == "http" and scope["query_string"]:
            wrong = _check(QueryParams(scope["query_string"]), parameters_of(scope))
        if wrong is None:
            await self.app(scope, receive, send)
        else:
            response = problem_response("invalid_request", wrong.detail, errors=[wrong])
            await response(scope, receive, send)


def parameters_of(scope: Scope) -> list[str] | None:
    """Names of what the route takes, as OpenAPI has them; None where there is no such route."""
    for route in scope["app"].routes:
        if isinstance(route, APIRoute) and route.matches(scope)[0] is Match.FULL:
            declared = route.dependant.query_params
            more = (route.openapi_extra or {}).get("parameters", ())
            return [*(field.alias for field in declared), *(x["name"] for x in more)]
    return None


def _check(query: QueryParams, known: Sequence[str] | None) -> FieldError | None:
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
        if known is not None and not _is_known(name, known):
            legal = did_you_mean(name[:80], known) if known else "legal: none"
            return FieldError(
                pointer=f"?{name[:80]}", detail=f"{quoted(name)} is not a parameter; {legal}"
            )
        seen.add(name)
    return None


def _is_known(name: str, known: Sequence[str]) -> bool:
    families = (x.removesuffix("KEY") for x in known if x.endswith(ANY_KEY))
    return name in known or any(name.startswith(family) for family in families)
