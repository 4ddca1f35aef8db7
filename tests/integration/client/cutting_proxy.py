"""A TCP proxy that breaks connections: real sockets, really cut."""

import contextlib
import fcntl
import socket
import socketserver
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DELIVERY_TIMEOUT_S = 10


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
            self._wait_until_delivered()
            # a reset, not a polite end
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        def _wait_until_delivered(self) -> None:
            """A reset throws away what the kernel has not sent yet: the cut would come sooner."""
            deadline = time.monotonic() + DELIVERY_TIMEOUT_S
            waiting = bytearray(4)
            while time.monotonic() < deadline:
                fcntl.ioctl(self.request, termios.TIOCOUTQ, waiting)
                if int.from_bytes(waiting, sys.byteorder) == 0:
                    return
                time.sleep(0.005)

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
