"""What a dataset may hold: each kind is checked while it arrives, chunk by chunk.

Chunks begin and end anywhere, within a character too. `write` raises `UserError` where the rest
need not be read, `finish` for what is not legal as a whole.
"""

import codecs

from apiq_core.errors import UserError
from apiq_core.finetune.data.read import Findings, Lines
from jobs.datasets.files import ROWS, TEXT


class TextContent:
    """A text in UTF-8 that says something."""

    kind = TEXT
    rows = None
    duplicates = None
    longest_row_characters = None
    chats = None

    def __init__(self) -> None:
        self.characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._size_bytes = 0
        self._is_blank = True

    def write(self, chunk: bytes) -> None:
        self._decode(chunk, final=False)
        self._size_bytes += len(chunk)

    def finish(self) -> None:
        self._decode(b"", final=True)
        if self._is_blank:
            raise UserError(
                "empty_dataset",
                f"the text is empty ({self._size_bytes} bytes, all white space); "
                "legal: text in UTF-8",
                value=self._size_bytes,
            )

    def _decode(self, chunk: bytes, *, final: bool) -> None:
        pending = len(self._decoder.getstate()[0])  # bytes of a character that began before
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            at = self._size_bytes - pending + error.start
            raise UserError(
                "not_utf8",
                f"byte {at} (0x{error.object[error.start]:02x}) is not UTF-8: {error.reason}; "
                "legal: text in UTF-8",
                value=at,
            ) from None
        self.characters += len(text)
        self._is_blank = self._is_blank and not text.strip("\ufeff \t\r\n\0")


class RowsContent:
    """Rows to train on, a line of JSON each. Read to the end whatever is wrong, so that all the
    bad lines are counted."""

    kind = ROWS

    def __init__(self) -> None:
        self.characters = 0
        self.chats = 0
        self._lines = Lines()
        self._findings = Findings()
        # what it cannot read is in a bad row, which is found line by line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def rows(self) -> int:
        return self._findings.rows

    @property
    def duplicates(self) -> int:
        return self._findings.duplicates

    @property
    def longest_row_characters(self) -> int:
        return self._findings.longest_characters

    def write(self, chunk: bytes) -> None:
        self.characters += len(self._decoder.decode(chunk))
        for number, line in self._lines.feed(chunk):
            self._add(number, line)

    def finish(self) -> None:
        for number, line in self._lines.end():
            self._add(number, line)
        self._findings.check()

    def _add(self, number: int, line: bytes) -> None:
        row = self._findings.add(number, line)
        self.chats += row is not None and row.shape == "messages"


Content = TextContent | RowsContent
CONTENTS: dict[str, type[Content]] = {TEXT: TextContent, ROWS: RowsContent}
