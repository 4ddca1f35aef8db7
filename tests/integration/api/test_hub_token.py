"""A hub token opens a gated model, and is nowhere to be seen: a canary is searched everywhere."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from jobs import keys, secrets
from jobs.keys import Scope
from jobs.schema import job_secrets, metadata
from jobs.settings import Settings
from tests.integration.api.hub_server import Hub
from tests.integration.api.support import Service, fetch, place_model

SECRET_KEY = "a secret of the server, 32 or more"
CANARY = "zq7Canary.token~0123456789"  # like nothing that is blanked out by its looks
GATED = "org/gated"
ENDS_WITHIN_S = 180.0
SMALL: dict[str, Any] = {
    "model": GATED,
    "bits": 2,
    "method": "rtn",
    "calibration": {"source": "builtin", "samples": 2, "length": 32, "held_out": 2},
    "evaluation": {"samples": 2, "length": 32},
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"secret_key": SecretStr(SECRET_KEY), "device": "cpu", "cancel_poll_s": 0.2}
    return settings.model_copy(update=changes | {"sweep_interval_s": 0.5})


@pytest.fixture
def gated(hub: Hub, tiny_model: Path) -> Hub:
    place_model(hub.root / "models", tiny_model, GATED)
    hub.gated.add(GATED)
    hub.token = CANARY
    return hub


@pytest.fixture
def said(service: Service) -> list[str]:
    """Calls are made with a key of an admin; every answer, headers and all."""
    with service.context.database.begin() as connection:
        _, key = keys.create(
            connection,
            name="test",
            owner="ada",
            scopes=[Scope.ADMIN],
            settings=service.context.settings,
        )
    service.http.headers["authorization"] = f"Bearer {key}"
    answers: list[str] = []
    service.http.event_hooks["response"] = [
        lambda answer: answers.append(answer.read().decode("latin-1") + str(answer.headers))
    ]
    return answers


def rows(service: Service) -> str:
    with service.context.database.read() as connection:
        return "\n".join(
            repr(row)
            for table in metadata.sorted_tables
            for row in connection.execute(table.select())
        )


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def processes(parent: psutil.Process) -> str:
    """What anybody on the machine may see of a process and those it started."""
    seen = ""
    for process in [parent, *parent.children(recursive=True)]:
        for name in ("cmdline", "environ"):
            try:
                seen += Path(f"/proc/{process.pid}/{name}").read_bytes().decode("latin-1")
            except OSError:  # it ended
                continue
    return seen


def test_a_canary(
    service: Service, gated: Hub, said: list[str], settings: Settings, tmp_path: Path
) -> None:
    service.refused(service.http.post("/jobs", json=SMALL), 422, "model_gated")
    wrong = service.http.post("/jobs", json=SMALL | {"hub_token": "another_token"})
    service.refused(wrong, 422, "model_gated")
    answer = service.http.post("/jobs", json=SMALL | {"hub_token": CANARY})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    kept = rows(service)
    with service.context.database.read() as connection:
        assert secrets.hub_token(connection, job["id"], settings) == CANARY
        (sealed,) = connection.execute(job_secrets.select()).one()[1:]
    assert sealed in kept

    log = tmp_path / "worker.log"
    environment = os.environ | settings.environment() | {"HF_HUB_CACHE": str(tmp_path / "cache")}
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker"], env=environment, stdout=output, stderr=output
        )
    try:
        parent = psutil.Process(worker.pid)
        seen, most = "", 0
        deadline = time.monotonic() + ENDS_WITHIN_S
        while service.http.get(job["urls"]["self"]).json()["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, log.read_text()
            seen += processes(parent)
            most = max(most, len(parent.children(recursive=True)))
            time.sleep(0.2)
    finally:
        worker.terminate()
        worker.wait(30)
    ended = service.http.get(job["urls"]["self"]).json()
    assert ended["state"] == "succeeded", (ended, log.read_text())
    assert most >= 1  # the child was looked at
    assert "worker.child" in seen
    assert gated.fetched() >= {"model.safetensors"}

    for path in ("", "/events", "/logs", "/artifacts", "/artifacts.tar"):
        assert service.http.get(job["urls"]["self"] + path).is_success
    listed = service.http.get(job["urls"]["artifacts"]).json()["artifacts"]
    assert len(listed) > 5
    for artifact in listed:
        assert fetch(service, artifact["url"]).is_success
    for url in ("/jobs", "/metrics", "/readyz"):
        assert service.http.get(url).is_success

    after = rows(service)
    with service.context.database.read() as connection:
        assert connection.execute(job_secrets.select()).all() == []
    everywhere = {
        "rows before": kept,
        "rows after": after,
        "processes": seen,
        **{f"answer {number}": text for number, text in enumerate(said)},
    }
    everywhere |= {str(path): text.decode("latin-1") for path, text in files(tmp_path).items()}
    assert [place for place, text in everywhere.items() if CANARY in text] == []


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_it_is_wiped_however_the_job_ends(
    service: Service, gated: Hub, said: list[str], settings: Settings, end: str
) -> None:
    job = service.http.post("/jobs", json=SMALL | {"hub_token": CANARY}).json()
    if end == "failed":
        error = {"code": "x", "message": "y", "fault": "infra", "retryable": True}
        service.fail(service.claim(), error)
    else:
        service.http.post(job["urls"]["cancel"])
    with service.context.database.read() as connection:
        assert secrets.hub_token(connection, job["id"], settings) is None
    # so a retry has to bring it again
    retry = service.http.post(job["urls"]["retry"], json={"hub_token": CANARY}).json()
    with service.context.database.read() as connection:
        assert secrets.hub_token(connection, retry["id"], settings) == CANARY
    assert CANARY not in str(said)


@pytest.mark.parametrize(
    "body",
    [
        {"hub_token": CANARY + "\n"},
        {"hub_token": CANARY + "é"},
        {"hub_token": "short"},
        {"hub_token": CANARY * 20},
        {"hub_token": [CANARY]},
        {"hub_token": {"token": CANARY}},
        {"hub_tokn": CANARY},
        json.dumps({"hub_token": CANARY}),  # encoded twice
        [CANARY],
    ],
)
def test_refusals_do_not_quote_it(service: Service, said: list[str], body: Any) -> None:
    job = service.http.post("/jobs", json={"model": "tiny", "bits": 2}).json()
    service.http.post(job["urls"]["cancel"])
    whole = SMALL | body if isinstance(body, dict) else body
    for url, content in (("/jobs", whole), (job["urls"]["retry"], body)):
        service.refused(service.http.post(url, json=content), 422, "invalid_request")
    assert CANARY not in str(said)
    assert "'short'" not in str(said)


def test_another_secret_key_cannot_read_it(
    service: Service, gated: Hub, said: list[str], settings: Settings
) -> None:
    job = service.http.post("/jobs", json=SMALL | {"hub_token": CANARY}).json()
    for key, why in ((SecretStr(SECRET_KEY + "!"), "another secret_key"), (None, "no secret_key")):
        other = settings.model_copy(update={"secret_key": key})
        with (
            service.context.database.read() as connection,
            pytest.raises(ValueError, match=why),
        ):
            secrets.hub_token(connection, job["id"], other)
