"""A server that answers what a test tells it to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JSON = {"content-type": "application/json"}
AWAY_BODY = b'{"code": "database_unavailable", "detail": "it restarts"}'


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    after_s: float = 0.0


AWAY = Answer(AWAY_BODY, 503, JSON | {"retry-after": "0"})


class Server(ThreadingHTTPServer):
    """Gives its answers one after the other, the last one again and again."""

    daemon_threads = True

    def __init__(self, port: int, answers: list[Answer]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answers = answers
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        time.sleep(answer.after_s)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def scripted(*answers: Answer, port: int = 0) -> Iterator[Server]:
    with Server(port, list(answers)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
