"""A TCP proxy that breaks connections: real sockets, really cut."""

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Proxy:
    """Each entry of `cuts` breaks one connection after so many bytes of its answer."""

    url: str = ""
    cuts: list[int] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)  # the head of each request


@contextmanager
def cutting_proxy(target_url: str) -> Iterator[Proxy]:
    target = urlsplit(target_url)
    proxy = Proxy()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            upstream = socket.create_connection((target.hostname, target.port))
            thread = threading.Thread(target=self._up, args=(upstream,), daemon=True)
            thread.start()
            left = proxy.cuts.pop(0) if proxy.cuts else None
            with contextlib.suppress(OSError):
                while content := upstream.recv(65536):
                    if left is not None:
                        content = content[:left]
                        left -= len(content)
                    self.request.sendall(content)
                    if left == 0:
                        break
            upstream.close()
            # a reset, not a polite end
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        def _up(self, upstream: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while content := self.request.recv(65536):
                    proxy.requests.append(content)
                    upstream.sendall(content)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield proxy
        server.shutdown()
