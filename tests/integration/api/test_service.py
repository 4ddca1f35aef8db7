"""Health, version, figures; what the process may bind to; what it must not import."""

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.integration.api.support import Service, drop_the_tables


def test_health_and_version(service: Service) -> None:
    assert service.http.get("/healthz").json() == {"status": "ok"}
    assert service.http.get("/version").json()["version"] == "0.1.0"


def test_ready_says_what_it_uses(service: Service, settings: Settings) -> None:
    ready = service.http.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["uses"]["database"] == settings.database_url
    assert ready["uses"]["artifacts"] == settings.artifacts_url
    assert ready["uses"]["models"] == str(settings.models_dir)


def test_not_ready_without_tables(service: Service) -> None:
    drop_the_tables(service)
    problem = service.refused(service.http.get("/readyz"), 503, "not_ready")
    assert problem["detail"].startswith("the database does not answer, or has no tables;")
    assert service.http.get("/healthz").status_code == 200


@pytest.mark.column("embedded")
def test_not_ready_without_a_directory(
    service: Service, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (settings.data_dir / "artifacts").write_text("a file where a directory should be")
    answer = service.http.get("/readyz")
    problem = service.refused(answer, 503, "not_ready")
    assert problem["detail"].startswith("the artifact store takes no writes;")
    assert str(settings.data_dir) not in answer.text
    log = capsys.readouterr().out
    assert "not_ready" in log and str(settings.data_dir) in log


@pytest.mark.column("embedded")
def test_a_store_that_hangs_holds_one_thread(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, go_on = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        answers.release()
        assert go_on.wait(30)

    monkeypatch.setattr(service.context.store, "check", hang)
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(service.http.get, "/readyz") for _ in range(60)]
        assert answers.acquire(timeout=10)
        assert service.http.post("/jobs", json={"model": "tiny", "bits": 2}).status_code == 202
        go_on.set()
        assert {future.result().status_code for future in asked} == {200}
    assert not answers.acquire(blocking=False)  # one check for all, and for those right after
    assert service.http.get("/readyz").is_success
    assert not answers.acquire(blocking=False)


def test_secrets_of_addresses_are_not_shown() -> None:
    from api.health import _uses

    settings = Settings(
        database_url="postgresql+psycopg://apiq:canary@db/apiq",
        broker_url="redis://:canary@redis:6379/0",
    )
    shown = _uses(settings)
    assert "canary" not in str(shown)
    assert "db/apiq" in shown["database"] and "redis:6379/0" in shown["broker"]


def test_metrics(service: Service) -> None:
    job = service.submit()
    service.submit()
    service.http.post(job["urls"]["cancel"])
    service.http.get("/jobs/job_none")
    lines = service.http.get("/metrics").text.splitlines()
    assert 'apiq_jobs{state="queued"} 1.0' in lines
    assert 'apiq_jobs{state="cancelled"} 1.0' in lines
    assert 'apiq_jobs{state="running"} 0.0' in lines
    assert 'apiq_http_requests_total{method="POST",route="/jobs",status="202"} 2.0' in lines
    route = 'method="GET",route="/jobs/{job_id}",status="404"'
    assert f"apiq_http_requests_total{{{route}}} 1.0" in lines


@pytest.mark.column("embedded")
def test_the_docs_need_no_other_server(service: Service) -> None:
    page = service.http.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(addresses) == 3  # a script, a style, an icon
    for address in addresses:
        assert address.startswith("/") and not address.startswith("//")
        assert service.http.get(address).status_code == 200
    assert "//" not in page.text
    assert "'/openapi.json'" in page.text and '"validatorUrl": null' in page.text
    service.refused(service.http.get("/static-offline-docs/../app.py"), 404, "not_found")
    service.refused(service.http.get("/static-offline-docs/%2e%2e/core.py"), 404, "not_found")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_without_keys_it_binds_to_loopback_only(host: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        env=os.environ | {"APIQ_HOST": host, "APIQ_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert host in line and "loopback only" in line and "host_not_loopback" in line


def test_the_face_never_loads_torch() -> None:
    code = (
        "import api.__main__, sys; sys.exit(not {'torch', 'transformers'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
