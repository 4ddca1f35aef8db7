"""HTTP ranges (RFC 9110, section 14) of one file: none or one; several are answered in full."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(?P<first>\d{0,19})-(?P<last>\d{0,19})", re.ASCII)


@dataclass(frozen=True)
class ByteRange:
    """Bytes `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


class RangeNotSatisfiable(Exception):
    """The range holds no byte of the file."""


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """The range asked for, or None for the whole file.

    A header that is malformed or asks for several ranges is ignored, as the RFC has it.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None:
        return None
    first, last = match["first"], match["last"]
    if not first:
        if not last:
            return None
        start, end = max(0, size_bytes - int(last)), size_bytes  # the last so many bytes
    else:
        if last and int(last) < int(first):
            return None
        start = int(first)
        end = min(int(last) + 1, size_bytes) if last else size_bytes
    if start >= end:
        raise RangeNotSatisfiable
    return ByteRange(start, end)
