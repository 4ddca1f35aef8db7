"""Which names a server without API keys answers to, and which web pages.

Everybody who reaches it may do everything, so nobody else's web page may reach it. A page that has
its own name resolve to 127.0.0.1 (DNS rebinding) still sends that name as `Host`. A page that
posts a text or a form to 127.0.0.1 needs nobody's leave, but its browser names it as `Origin`.
"""

import ipaddress
from urllib.parse import urlsplit

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
    """ASGI middleware: 421 for a `Host` that is neither loopback nor `host`, 403 for an `Origin`
    that is neither."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        hosts, origins = _shown(scope, b"host"), _shown(scope, b"origin")
        if len(hosts) != 1 or not self._is_ours(_without_port(hosts[0])):
            code, name, shown = "host_not_allowed", "Host", hosts
            legal = "localhost, 127.0.0.1 or [::1]"
        elif not all(self._is_ours(_host_of(origin)) for origin in origins):
            code, name, shown = "origin_not_allowed", "Origin", origins
            legal = "a page of localhost, 127.0.0.1 or [::1]"
        else:
            await self.app(scope, receive, send)
            return
        detail = f"{name} is {quoted(', '.join(shown))}; legal without API keys: {legal}"
        errors = [FieldError(pointer=f"{name}:", detail=detail)]
        response = problem_response(code, detail, errors=errors)
        await response(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        host = host.lower()
        return host == self.host.lower() or is_loopback(host)


def _shown(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]


def _host_of(origin: str) -> str:
    """Empty of `null`, which a page sends that hides where it is from."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
