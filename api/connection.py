"""HTTP/1.1 as uvicorn speaks it, with two things that it lacks.

A client that never finishes the head of its request would hold its connection for ever, and
what is no HTTP at all would be answered with plain text.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.problems import problem_response


def connection_class(client_timeout_s: float) -> type[asyncio.Protocol]:
    """For `uvicorn.Config(http=...)`; a head must have arrived within `client_timeout_s`."""

    class Connection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch()

        def send_400_response(self, msg: str) -> None:
            self._refuse("bad_request", "this is not HTTP/1.1, or its head is over 64 KiB")

        def _watch(self) -> None:
            """Have the timer run exactly while the head of a request is awaited, or the rest of a
            body that was refused."""
            answered = self.cycle is not None and self.cycle.response_complete
            awaited = self.conn.their_state is h11.IDLE or (
                self.conn.their_state is h11.SEND_BODY and answered
            )
            if self.transport.is_closing() or not awaited:
                self._unwatch()
            elif self._timer is None:
                self._timer = self.loop.call_later(client_timeout_s, self._too_slow)

        def _unwatch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.conn.trailing_data[0]:
                self.transport.close()  # no request was begun
                return
            detail = f"the head did not arrive within {client_timeout_s:g} s"
            self._refuse("request_too_slow", detail)

        def _refuse(self, code: str, detail: str) -> None:
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.close()  # within an answer there is no room for another
                return
            if self.cycle is not None:
                self.cycle.disconnected = True  # it must not answer as well
            response = problem_response(code, detail, headers={"connection": "close"})
            head = h11.Response(status_code=response.status_code, headers=response.raw_headers)
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection
