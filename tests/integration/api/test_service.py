"""Health, version, figures; what the process may bind to; what it must not import."""

import os
import re
import subprocess
import sys
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
    assert "the database: " in problem["detail"] and "jobs" in problem["detail"]
    assert service.http.get("/healthz").status_code == 200


@pytest.mark.column("embedded")
def test_not_ready_without_a_directory(service: Service, settings: Settings) -> None:
    (settings.data_dir / "artifacts").rmdir() if (settings.data_dir / "artifacts").exists() else 0
    (settings.data_dir / "artifacts").write_text("a file where a directory should be")
    problem = service.refused(service.http.get("/readyz"), 503, "not_ready")
    assert "artifact store" in problem["detail"]


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
