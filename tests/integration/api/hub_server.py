"""A model hub on loopback: the few calls of huggingface_hub, answered from a folder.

    ROOT/models/ORG/NAME/...      model repositories
    ROOT/datasets/ORG/NAME/...    dataset repositories

It speaks real HTTP, so that the real client code runs against it.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

INFO = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?")
FILE = re.compile(r"(/datasets)?/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """What the hub holds, and what it was asked for."""

    root: Path
    url: str = ""
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    gated: set[str] = field(default_factory=set)
    token: str | None = None  # opens what is gated
    requests: list[tuple[str, str]] = field(default_factory=list)  # (method, path)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)  # of repositories, by name
    status: int | None = None  # answers everything with it, and says no more
    held: threading.Event | None = None  # sends no file before it is set
    cut_after_bytes: int | None = None  # break the next file download there, once

    def fetched(self) -> set[str]:
        """The files whose bytes were asked for."""
        matches = (FILE.fullmatch(path) for method, path in self.requests if method == "GET")
        return {match[4] for match in matches if match}


@contextmanager
def serve_hub(root: Path) -> Iterator[Hub]:
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            if hub.status is not None:
                self._send(hub.status, b"", {})
            elif match := INFO.fullmatch(path):
                self._info(*match.groups())
            elif match := FILE.fullmatch(path):
                kind = "datasets" if match[1] else "models"
                self._file(kind, match[2], match[3], match[4])
            else:
                self._refuse(404, "EntryNotFound")

        def _info(self, kind: str, name: str, revision: str | None) -> None:
            repository = hub.root / kind / name
            if not repository.is_dir():
                return self._refuse(401, "RepoNotFound")
            if revision not in (None, "main", hub.commit):
                return self._refuse(404, "RevisionNotFound")
            siblings = [
                {"rfilename": str(file.relative_to(repository)), "size": file.stat().st_size}
                for file in sorted(repository.rglob("*"))
                if file.is_file()
            ]
            body = {"id": name, "sha": hub.commit, "siblings": siblings, "private": False}
            body |= {"cardData": hub.cards.get(name)}
            content = json.dumps(body | {"tags": [], "downloads": 0, "likes": 0}).encode()
            self._send(200, content, {"Content-Type": "application/json"})

        def _file(self, kind: str, name: str, revision: str, path: str) -> None:
            if name in hub.gated and not self._has_access():
                return self._refuse(403, "GatedRepo")
            file = hub.root / kind / name / path
            if not file.is_file():
                return self._refuse(404, "EntryNotFound")
            content = file.read_bytes()
            if hub.held is not None and self.command == "GET":
                hub.held.wait(30)
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": hub.commit,
                "Accept-Ranges": "bytes",
            }
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not match:
                return self._send(200, content, headers)
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            part = content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self._send(206, part, headers)

        def _has_access(self) -> bool:
            shown = self.headers.get("Authorization")
            return hub.token is not None and shown == f"Bearer {hub.token}"

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut_after_bytes is not None and len(content) > hub.cut_after_bytes:
                self.wfile.write(content[: hub.cut_after_bytes])
                hub.cut_after_bytes = None
                self.close_connection = True
                return
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
