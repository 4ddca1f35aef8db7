"""Keys from the command line, and what a client does with its own."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from apiq_client import ApiqError, Client, ProblemError
from jobs.settings import Settings
from tests.integration.api.live import Live, serve
from tests.integration.client.command import Command
from tests.integration.client.test_up import data_dir
from tests.integration.client.up_process import Up, processes_of

__all__ = ["data_dir"]

SECRET_KEY = "a secret of the server, 32 or more"


@contextmanager
def redirecting(to: str) -> Iterator[tuple[str, list[str | None]]]:
    """A server whose every answer leads to `to`; its URL and the keys that it was shown."""
    shown: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("authorization"))
            leads_on = self.path != "/end"
            self.send_response(307 if leads_on else 200)
            if leads_on:
                self.send_header("location", to or "/end")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", shown
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestClient:
    def test_a_key_goes_to_its_own_server_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("APIQ_API_KEY", "apiq_from_the_environment")
        with redirecting("") as (other, at_other), redirecting(f"{other}/end") as (own, at_own):
            with Client(own) as client:
                client.version()
            with Client(own, api_key="apiq_given") as client:
                client.version()
            with Client(other) as client:  # a redirect within one server
                client.version()
        assert at_own == ["Bearer apiq_from_the_environment", "Bearer apiq_given"]
        assert at_other == [None, None, *["Bearer apiq_from_the_environment"] * 2]

    @pytest.mark.parametrize("key", ["a b", "é", "apiq_x\n", "\x00"])
    def test_what_cannot_be_a_key_is_not_shown(self, key: str) -> None:
        with pytest.raises(ApiqError) as caught:
            Client(api_key=key)
        assert caught.value.code == "illegal_api_key"
        assert key not in caught.value.message


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Live]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("keyed"), secret_key=SECRET_KEY)
    with serve(settings, tiny_model) as live:
        yield live


@pytest.fixture
def apiq(keyed: Live, tmp_path: Path) -> Command:
    command = Command(keyed.url, tmp_path)
    command.environment |= keyed.context.settings.environment()
    return command


class TestKeyed:
    """A server with keys, and `apiq` beside it."""

    def test_create_use_list_revoke(self, apiq: Command) -> None:
        made = apiq("keys", "create", "--owner", "ada", "--name", "laptop")
        key = made.stdout.strip()
        assert key.startswith("apiq_") and len(key) == 54
        assert "of ada, for artifacts:read, jobs:read, jobs:write" in made.stderr
        assert key not in made.stderr

        refused = apiq("jobs", "list", code=1).stderr
        assert refused.startswith("error: this server needs an API key")
        assert "APIQ_API_KEY" in refused and refused.endswith("[unauthorized]\n")
        apiq.environment["APIQ_API_KEY"] = key
        job_id = apiq("quantize", "tiny", "--bits", "2").stdout.strip()
        assert job_id in apiq("jobs", "list").stdout

        (shown,) = json.loads(apiq("keys", "list", "--json").stdout)["keys"]
        assert (shown["owner"], shown["name"], shown["revoked_at"]) == ("ada", "laptop", None)
        listed = apiq("keys", "list").stdout
        assert shown["id"] in listed and key not in listed
        assert apiq("keys", "revoke", shown["id"]).stdout == f"{shown['id']} revoked\n"
        again = apiq("keys", "revoke", shown["id"], code=1).stderr
        assert again.endswith("[key_not_found]\n")
        (line,) = apiq("jobs", "list", code=1).stderr.splitlines()
        assert "it was revoked" in line and line.endswith("[unauthorized]")

    def test_a_key_for_less(self, apiq: Command, keyed: Live, tmp_path: Path) -> None:
        options = ["--owner", "bob", "--scope", "jobs:read", "--scope", "artifacts:read"]
        made = json.loads(apiq("keys", "create", *options, "--json").stdout)
        assert made["scopes"] == ["artifacts:read", "jobs:read"]
        apiq.environment["APIQ_API_KEY"] = made["key"]
        assert apiq("quantize", "tiny", "--bits", "2", code=1).stderr == (
            "error: this key may artifacts:read, jobs:read; needed: jobs:write [scope_missing]\n"
        )
        large = tmp_path / "large.txt"
        large.write_bytes(b"x" * 30_000_000)  # refused before it is read: still an answer
        with Client(keyed.url, api_key=made["key"]) as client:
            for _ in range(5):
                with pytest.raises(ProblemError) as caught:
                    client.upload_dataset(large)
                assert caught.value.code == "scope_missing"

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            (["--owner", "a b"], "owner is 'a b'; legal: 1 to 64"),
            (["--owner", "a", "--name", ""], "name is ''; legal: 1 to 100"),
            (
                ["--owner", "a", "--scope", "all"],
                "scope is 'all'; legal: jobs:read, jobs:write, artifacts:read, admin",
            ),
        ],
    )
    def test_illegal_keys(self, apiq: Command, options: list[str], part: str) -> None:
        (line,) = apiq("keys", "create", *options, code=1).stderr.splitlines()
        assert part in line and line.endswith("[illegal_key]")

    def test_without_a_secret_key(self, apiq: Command) -> None:
        del apiq.environment["APIQ_SECRET_KEY"]
        for command in (["create", "--owner", "a"], ["list"], ["revoke", "key_x"]):
            (line,) = apiq("keys", *command, code=1).stderr.splitlines()
            assert "need APIQ_SECRET_KEY" in line and "token_urlsafe" in line
            assert line.endswith("[no_secret_key]")
        apiq.environment["APIQ_SECRET_KEY"] = "too short"
        (line,) = apiq("keys", "list", code=2).stderr.splitlines()
        assert "APIQ_SECRET_KEY" in line and "32" in line and "too short" not in line

    def test_without_a_database(self, apiq: Command, tmp_path: Path) -> None:
        for name in ("DATABASE_URL", "BROKER_URL", "ARTIFACTS_URL", "MODELS_DIR"):
            del apiq.environment[f"APIQ_{name}"]
        options = ["--data-dir", str(tmp_path / "none")]
        (line,) = apiq("keys", "list", *options, code=1).stderr.splitlines()
        assert str(tmp_path / "none/apiq.db") in line and line.endswith("[no_database]")
        assert not (tmp_path / "none").exists()


def test_up_with_keys(data_dir: Path, tmp_path: Path) -> None:
    up = Up(data_dir, APIQ_SECRET_KEY=SECRET_KEY)
    try:
        url = up.wait_until_up()
        with Client(url) as client, pytest.raises(ProblemError) as caught:
            list(client.jobs())
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        environment = {"APIQ_SECRET_KEY": SECRET_KEY, "APIQ_DATA_DIR": str(data_dir)}
        apiq = Command.__new__(Command)
        apiq.cwd, apiq.environment = tmp_path, os.environ | environment
        key = apiq("keys", "create", "--owner", "ada").stdout.strip()
        with Client(url, api_key=key) as client:
            assert list(client.jobs()) == []
        for process in processes_of(data_dir):  # the secret is in no command line
            assert SECRET_KEY not in " ".join(psutil.Process(process.pid).cmdline())
        up.process.terminate()
        assert up.ended() == (0, "")
    finally:
        up.process.kill()
