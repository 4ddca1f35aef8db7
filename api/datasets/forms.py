"""A form with one file in it, taken apart while it arrives: nothing of it is kept here."""

import logging
from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.problems import ApiError
from api.validation import quoted

MEDIA_TYPE = "multipart/form-data"
MAX_OVERHEAD_BYTES = 64 * 1024  # of what is not the file: boundaries, headers
LEGAL = "one part, a file"

# it warns of what it also raises, and a client's mistakes are no news to the operator
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class FileForm:
    """`write` chunks of the body, then `finish`. Raises `ApiError` for any other form.

    What arrives of the file goes on at once: `begin` gets its name, then `take` its bytes.
    """

    def __init__(
        self, content_type: str, begin: Callable[[str], None], take: Callable[[bytes], None]
    ) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary:
            raise _malformed("Content-Type has no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_name,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._take,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from None
        self._begin = begin
        self._take_bytes = take
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._overhead_bytes = 0
        self._has_file = False
        self._is_whole = False

    def write(self, chunk: bytes) -> None:
        self._overhead_bytes += len(chunk)  # less what goes on to `take`
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from None
        if self._overhead_bytes > MAX_OVERHEAD_BYTES:
            raise _malformed(f"it has more than {MAX_OVERHEAD_BYTES} bytes beside the file")

    def finish(self) -> None:
        """The last chunk was written."""
        if not self._is_whole:
            raise _malformed("it breaks off: its last boundary is missing")
        if not self._has_file:
            raise _refused(f"the form has no part; legal: {LEGAL}")

    def _begin_part(self) -> None:
        if self._has_file:
            raise _refused(f"the form has another part beside the file; legal: {LEGAL}")
        self._disposition = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _begin_content(self) -> None:
        options = parse_options_header(self._disposition)[1]
        file_name = options.get(b"filename", b"")
        if not file_name:  # a field, or a file that was not chosen
            field = quoted(options.get(b"name", b"").decode(errors="replace"))
            raise _refused(f"the part {field} is no file; legal: {LEGAL}, with a filename")
        self._has_file = True
        try:
            self._begin(file_name.decode())
        except UnicodeDecodeError:
            raise _refused(f"the filename {quoted(file_name)} is not UTF-8") from None

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._overhead_bytes -= end - start
        self._take_bytes(data[start:end])

    def _end(self) -> None:
        self._is_whole = True


def _malformed(reason: str) -> ApiError:
    detail = f"the body is no form: {reason}; legal: {MEDIA_TYPE} with {LEGAL}"
    return ApiError("bad_request", detail, pointer="Content-Type:")


def _refused(detail: str) -> ApiError:
    return ApiError("invalid_request", detail, pointer="Content-Disposition:")
