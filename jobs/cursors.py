"""Where a page of a list ends, as text that a client hands back: opaque, so that it may change."""

import base64
import binascii

from jobs.errors import InvalidCursor


def encode(last_id: str) -> str:
    """The cursor of the page that begins behind this id."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode(cursor: str, prefix: str) -> str:
    """The id of a cursor; raises `InvalidCursor` unless it begins with `prefix`."""
    try:
        last_id = base64.b64decode(
            cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        ).decode("ascii")
    except (binascii.Error, ValueError):
        last_id = ""
    if not last_id.startswith(prefix) or not last_id.isprintable():
        raise InvalidCursor(f"after is {cursor[:80]!r}; legal: a cursor from an earlier page")
    return last_id
