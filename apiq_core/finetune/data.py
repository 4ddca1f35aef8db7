"""A file of rows: what is in it, and what is wrong with it."""

import hashlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from apiq_core.errors import UserError
from apiq_core.finetune.rows import BadRow, Row, parse

SHOWN_BAD_ROWS = 20
MAX_LINE_BYTES = 2**20


@dataclass(frozen=True)
class Problem:
    """A line that is no row."""

    line: int  # from 1
    field: str  # empty: the line as a whole
    reason: str


@dataclass
class Findings:
    """What reading a file from its first line to its last has found."""

    rows: int = 0
    duplicates: int = 0  # rows that an earlier line has word for word
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
        digest = hashlib.sha256(content.removeprefix(BOM_UTF8).strip()).digest()[:16]
        self.duplicates += digest in self._seen
        self._seen.add(digest)
        return row


def read_rows(path: Path) -> tuple[list[tuple[int, Row]], Findings]:
    """The rows of a JSONL file by line number. Raises `UserError`: `bad_rows`, `empty_dataset`."""
    findings = Findings()
    found = [(n, findings.add(n, content)) for n, content in _lines(path)]
    if findings.problems:
        first = findings.problems[0]
        raise UserError(
            "bad_rows",
            f"{findings.bad} lines are no rows; line {first.line}"
            + (f", {first.field}" if first.field else "")
            + f": {first.reason}",
            param="dataset",
            value=[vars(problem) for problem in findings.problems],
        )
    if not findings.rows:
        raise UserError("empty_dataset", "the dataset has no rows", param="dataset")
    return [(line, row) for line, row in found if row is not None], findings


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while content := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(content) > MAX_LINE_BYTES:  # keep its beginning alone: it is refused below
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
            if content.strip():
                yield number, content


def _row(content: bytes) -> Row:
    if len(content) > MAX_LINE_BYTES:
        raise BadRow("", f"longer than {MAX_LINE_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow("", f"byte {error.start} of the line is not UTF-8") from None
    return parse(text)
