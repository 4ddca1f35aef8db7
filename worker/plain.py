"""JSON data as every database takes it: PostgreSQL refuses some of what Python reads as JSON."""

import math
import re
from typing import Any

REPLACEMENT = "\ufffd"
NOT_STORED = re.compile("[\x00\ud800-\udfff]")  # U+0000, and half a surrogate pair


def plain(data: Any) -> Any:
    """The same JSON data: null for NaN and infinities, U+FFFD for characters that are not stored.

    https://www.postgresql.org/docs/current/datatype-json.html
    """
    if isinstance(data, str):
        return NOT_STORED.sub(REPLACEMENT, data)
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, list):
        return [plain(value) for value in data]
    if isinstance(data, dict):
        return {plain(key): plain(value) for key, value in data.items()}
    return data
