"""What goes wrong with `apiq` is told in one line, whoever is to blame; never by a traceback."""

from pathlib import Path

import pytest

from apiq_client import ApiqError, Client
from tests.integration.client.command import Command
from tests.integration.client.scripted import Answer, scripted

HTML = {"content-type": "text/html"}
LISTING = (
    b'{"artifacts": [{"path": "report.json", "size_bytes": 2, "content_type": "x", "sha256": '
    b'"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}'
)


@pytest.mark.parametrize("body", [b"<h1>Welcome</h1>", b"{}"])
@pytest.mark.parametrize(
    "command",
    ["jobs list", "jobs show job_1", "events job_1", "events -f job_1", "artifacts list job_1"],
)
def test_a_server_of_another_kind(tmp_path: Path, command: str, body: bytes) -> None:
    with scripted(Answer(body, headers=HTML)) as server:
        (line,) = Command(server.url, tmp_path)(*command.split(), code=1).stderr.splitlines()
    assert line.startswith(f"error: {server.url}/jobs") and "is APIQ_URL right?" in line
    assert line.endswith("[unexpected_answer]")


def test_a_url_that_is_none(tmp_path: Path) -> None:
    (line,) = Command("http://[::1", tmp_path)("jobs", "list", code=2).stderr.splitlines()
    assert "(APIQ_URL) is 'http://[::1': " in line and line.endswith("[illegal_url]")
    for url in ("localhost:8000", "127.0.0.1:8000", "server", "ftp://server", "http://:80"):
        with pytest.raises(ApiqError, match=f"'{url}'.*: no http:// and a host; legal: http://"):
            Client(url)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out/report.json.part").mkdir(parents=True)
    with scripted(Answer(LISTING)) as server:
        apiq = Command(server.url, tmp_path)
        done = apiq("artifacts", "download", "job_1", "--dir", "out", code=1)
    assert done.stderr == "error: out/report.json.part: Is a directory [file_error]\n"


def test_a_model_with_a_broken_config(tmp_path: Path) -> None:
    for name, config in (("a", "{"), ("b", "[]"), ("c", "{}"), ("d", '{"model_type": "llama"}')):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text(config)
    done = Command("http://127.0.0.1:9", tmp_path)("models", "list", "--models-dir", "models")
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        *(["a", "?"], ["b", "?"], ["c", "?"], ["d", "llama"])
    ]
