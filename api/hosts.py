"""Which names a server without API keys answers to.

Everybody who reaches it may do everything, so nobody else's web page may: a page that has its
own name resolve to 127.0.0.1 (DNS rebinding) still sends that name as `Host`.
"""

import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem_response
from api.validation import FieldError, quoted


def is_loopback(host: str) -> bool:
    """Whether a name or an address, without brackets, is this machine as seen from itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LoopbackOnly:
    """ASGI middleware: 421 for a `Host` that is neither loopback nor `host`."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        shown = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(shown) == 1 and self._is_ours(_without_port(shown[0]).lower()):
            await self.app(scope, receive, send)
            return
        detail = (
            f"Host is {quoted(', '.join(shown))}; legal without API keys: "
            "localhost, 127.0.0.1 or [::1]"
        )
        errors = [FieldError(pointer="Host:", detail=detail)]
        response = problem_response("host_not_allowed", detail, errors=errors)
        await response(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        return host == self.host.lower() or is_loopback(host)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
