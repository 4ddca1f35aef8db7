"""A TCP proxy in front of an object store that can be told to misbehave for a while."""

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHUNK_BYTES = 65536
CUT_AFTER_BYTES = 100_000  # of what one connection sends up: in the middle of a part
SLOW_S = 0.1  # a chunk
ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/xml\r\n"
    b"Content-Length: 52\r\nConnection: close\r\n\r\n"
    b"<Error><Code>InternalError</Code><Message/></Error>\n"
)


@dataclass
class Proxy:
    """`errors`, `cuts`, `slow`: how many more requests, connections, chunks are to suffer."""

    url: str = ""
    errors: int = 0
    cuts: int = 0
    slow: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, what: str) -> bool:
        """Whether it is this one's turn."""
        with self._lock:
            left = getattr(self, what)
            if left:
                setattr(self, what, left - 1)
            return bool(left)

    def behave(self) -> None:
        self.errors = self.cuts = self.slow = 0


@contextmanager
def faulty_proxy(target_url: str) -> Iterator[Proxy]:
    target = urlsplit(target_url)
    proxy = Proxy()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                socket.create_connection((target.hostname, target.port)) as upstream,
            ):
                threading.Thread(target=self._down, args=(upstream,), daemon=True).start()
                self._up(upstream)
                upstream.shutdown(socket.SHUT_WR)

        def _up(self, upstream: socket.socket) -> None:
            sent = 0
            while content := self.request.recv(CHUNK_BYTES):
                if proxy.take("errors"):
                    self.request.sendall(ERROR)
                    return
                if proxy.take("slow"):
                    time.sleep(SLOW_S)
                sent += len(content)
                if sent > CUT_AFTER_BYTES and proxy.take("cuts"):
                    # a reset, not a polite end
                    linger = struct.pack("ii", 1, 0)
                    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.request.close()
                    return
                upstream.sendall(content)

        def _down(self, upstream: socket.socket) -> None:
            with suppress(OSError):
                while content := upstream.recv(CHUNK_BYTES):
                    self.request.sendall(content)
                self.request.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            return  # a connection that broke is what it is for

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield proxy
        server.shutdown()
