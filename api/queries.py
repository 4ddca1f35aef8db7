"""A query string that means one thing, whoever reads it."""

from fastapi import Request

from api.problems import ApiError
from api.validation import quoted


def check_query(request: Request) -> None:
    """Refuse a parameter that is given twice, and U+0000, which no record can hold."""
    seen: set[str] = set()
    for name, value in request.query_params.multi_items():
        short = name if len(name) <= 80 and name.isprintable() else quoted(name)
        if "\x00" in name + value:
            raise ApiError(
                "invalid_request",
                f"{short} is {quoted(value)}; legal: Unicode characters without U+0000",
                pointer=f"?{short}",
            )
        if name in seen:
            raise ApiError(
                "invalid_request", f"{short} is given twice; legal: once", pointer=f"?{short}"
            )
        seen.add(name)
