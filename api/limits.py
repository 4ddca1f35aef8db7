"""No request body is read without a limit, of size and of time."""

import asyncio
import time

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem_response

# of a body that is refused unread, so much is read all the same: a client that is still writing
# would otherwise meet a reset connection instead of the answer
DRAIN_BYTES = 16 * 1024 * 1024

# uploads have a limit of their own and count for themselves; large ones may take long, but not
# fall silent
UNLIMITED = {("POST", "/datasets")}


class BodyTimeout:
    """ASGI middleware: 408 for a body that does not arrive.

    It must be whole within `client_timeout_s`; each piece of an upload has as long.
    """

    def __init__(self, app: ASGIApp, client_timeout_s: float) -> None:
        self.app = app
        self.client_timeout_s = client_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = (scope["method"], scope["path"]) in UNLIMITED
        until = time.monotonic() + self.client_timeout_s
        more, answering = True, False

        async def timed() -> Message:
            nonlocal more
            if not more:
                return await receive()
            left_s = self.client_timeout_s if is_upload else until - time.monotonic()
            try:
                async with asyncio.timeout(max(left_s, 0)):
                    message = await receive()
            except TimeoutError:
                more = False
                if answering:
                    return {"type": "http.disconnect"}
                raise HTTPException(
                    408, f"the body did not arrive within {self.client_timeout_s:g} s"
                ) from None
            more = message.get("more_body", False)
            return message

        async def noted(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        await self.app(scope, timed, noted)


class BodyLimit:
    """ASGI middleware: 413 for a body over `max_body_bytes`, declared or not."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) in UNLIMITED:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self.max_body_bytes:
            await _drain(receive)
            response = problem_response(
                "body_too_large",
                self._detail(int(declared[:20])),
                headers={"connection": "close"},
            )
            await response(scope, receive, send)
            return
        read_bytes = 0

        async def counted() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > self.max_body_bytes:
                raise HTTPException(413, self._detail(read_bytes))
            return message

        await self.app(scope, counted, send)

    def _detail(self, size_bytes: int) -> str:
        return (
            f"the body has {size_bytes} bytes or more; legal: at most {self.max_body_bytes} bytes"
        )


async def _drain(receive: Receive) -> None:
    """Read and forget a refused body, up to a bound."""
    left_bytes = DRAIN_BYTES
    more = True
    while more and left_bytes > 0:
        try:
            message = await receive()
        except HTTPException:  # too slow: it gets its answer now
            return
        left_bytes -= len(message.get("body", b""))
        more = message.get("more_body", False)
