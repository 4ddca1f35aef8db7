"""Send an iterator's bytes and close it, also where the client has gone in the middle."""

from collections.abc import Iterator, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class ByteStream(StreamingResponse):
    """A `StreamingResponse` that leaves no file open.

    The plain one forgets its iterator when a client vanishes: the file behind it stays open
    until the garbage collector comes by.
    """

    def __init__(
        self, chunks: Iterator[bytes], status_code: int, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(chunks, status_code, headers, media_type)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if (close := getattr(self._chunks, "close", None)) is not None:
                await run_in_threadpool(close)
