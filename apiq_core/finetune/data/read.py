"""A file of rows: what is in it, and what is wrong with it."""

import hashlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from apiq_core.errors import UserError
from apiq_core.events import CheckStop
from apiq_core.finetune.data.rows import BadRow, Row, parse

SHOWN_BAD_ROWS = 20
MAX_LINE_BYTES = 2**20
CHUNK_BYTES = 2**20
COMPARED_ROWS = 1_000_000  # a file can hold more rows than there is memory to know them all


@dataclass(frozen=True)
class Problem:
    """A line that is no row."""

    line: int  # from 1
    field: str  # empty: the line as a whole
    reason: str

    @property
    def place(self) -> str:
        return f"line {self.line}" + (f", {self.field}" if self.field else "")


class BadRows(UserError):
    """A file has lines that are no rows; `problems` are the first of them."""

    def __init__(self, count: int, problems: list[Problem], param: str | None) -> None:
        first = problems[0]
        lines = "1 line is no row" if count == 1 else f"{count} lines are no rows"
        super().__init__(
            "bad_rows",
            f"{lines}; {first.place}: {first.reason}",
            param=param,
            value=[vars(problem) for problem in problems],
        )
        self.problems = problems


@dataclass
class Findings:
    """What reading a file from its first line to its last has found."""

    rows: int = 0
    duplicates: int = 0  # rows that are word for word one of the first `COMPARED_ROWS`
    longest_characters: int = 0  # of what the model reads of a row, its template apart
    bad: int = 0
    problems: list[Problem] = field(default_factory=list)  # the first of them
    _seen: set[bytes] = field(default_factory=set)

    def add(self, line: int, content: bytes) -> Row | None:
        """The row on a line that is not blank; None, and noted, if it is none."""
        try:
            row = _row(content)
        except BadRow as error:
            self.bad += 1
            if len(self.problems) < SHOWN_BAD_ROWS:
                self.problems.append(Problem(line, error.field, error.reason))
            return None
        self.rows += 1
        self.longest_characters = max(self.longest_characters, row.characters)
        digest = hashlib.sha256(content.removeprefix(BOM_UTF8).strip()).digest()[:16]
        self.duplicates += digest in self._seen
        if len(self._seen) < COMPARED_ROWS:
            self._seen.add(digest)
        return row

    def check(self, param: str | None = None) -> None:
        """All was read: raises `UserError`: `bad_rows`, `empty_dataset`."""
        if self.problems:
            raise BadRows(self.bad, self.problems, param)
        if not self.rows:
            raise UserError(
                "empty_dataset", "the dataset has no rows; legal: one or more", param=param
            )


class Lines:
    """The lines of a file that comes in chunks, by number. Blank ones are left out, and of one
    that is too long no more is kept than tells so."""

    def __init__(self) -> None:
        self._number = 0  # of lines that are whole
        self._held = bytearray()  # of the line that is not

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """The lines that end in this chunk; take them all before the next one."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._hold(end)
            yield from self.end()
        self._hold(rest)

    def end(self) -> Iterator[tuple[int, bytes]]:
        """The last line, which need not have an end."""
        content = bytes(self._held)
        self._held.clear()
        self._number += 1
        if len(content) > MAX_LINE_BYTES or content.removeprefix(BOM_UTF8).strip():
            yield self._number, content

    def _hold(self, piece: bytes) -> None:
        self._held += piece[: MAX_LINE_BYTES + 1 - len(self._held)]


def read_rows(
    path: Path, param: str = "dataset", check_stop: CheckStop = lambda: None
) -> tuple[list[tuple[int, Row]], Findings]:
    """The rows of a JSONL file by line number. Raises `UserError`: `bad_rows`, `empty_dataset`;
    `param` is the field that they name. Asks between chunks whether to stop."""
    findings = Findings()
    found = [(n, findings.add(n, content)) for n, content in _lines(path, check_stop)]
    findings.check(param)
    return [(line, row) for line, row in found if row is not None], findings


def _lines(path: Path, check_stop: CheckStop) -> Iterator[tuple[int, bytes]]:
    lines = Lines()
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, CHUNK_BYTES), b""):
            check_stop()
            yield from lines.feed(chunk)
    yield from lines.end()


def _row(content: bytes) -> Row:
    if len(content) > MAX_LINE_BYTES:
        raise BadRow("", f"longer than {MAX_LINE_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow("", f"byte {error.start} of the line is not UTF-8") from None
    return parse(text)
