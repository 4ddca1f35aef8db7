"""`apiq artifacts`, and where downloads go, against a real server."""

import json
from pathlib import Path

from tests.integration.api.live import Live
from tests.integration.client.command import FILES, Command


def finished(live: Live) -> str:
    """A job with a manifest."""
    job_id = str(live.submit()["id"])
    manifest = {"manifest.json": json.dumps({"job": job_id}).encode()}
    live.publish(live.claim_only(job_id), FILES | manifest)
    return job_id


def test_artifacts(apiq: Command, live: Live, tmp_path: Path) -> None:
    job_id = live.finished(FILES)["id"]
    lines = apiq("artifacts", "list", job_id).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["PATH", *sorted(FILES)]
    assert len(lines[1].split()[-1]) == 64  # never shortened, however narrow the screen
    apiq("artifacts", "download", job_id, "model/*")
    assert (tmp_path / job_id / "model/model.safetensors").is_file()
    assert not (tmp_path / job_id / "report.json").exists()
    apiq("artifacts", "download", job_id, "--dir", "all")
    assert (tmp_path / "all/report.json").read_bytes() == b"{}"
    (line,) = apiq("artifacts", "download", job_id, "model/*", "x*", code=1).stderr.splitlines()
    assert f"{job_id} has no artifact like x*; legal: " in line
    assert line.endswith("[artifact_not_found]")


def test_parts_of_two_jobs_do_not_mix(apiq: Command, live: Live, tmp_path: Path) -> None:
    first, second = finished(live), finished(live)
    apiq("artifacts", "download", first, "model/*", "--dir", "out")
    assert not (tmp_path / "out/report.json").exists()
    (line,) = apiq(
        "artifacts", "download", second, "report.json", "--dir", "out", code=1
    ).stderr.splitlines()
    assert line.startswith(f"error: the folder {tmp_path / 'out'} has the files of another job, ")
    assert f"job, {first}; legal: " in line and line.endswith("[directory_taken]")
    apiq("artifacts", "download", first, "--dir", "out")  # goes on with those
    assert (tmp_path / "out/report.json").read_bytes() == b"{}"


def test_a_taken_directory_is_refused_before_the_job(
    apiq: Command, live: Live, tmp_path: Path
) -> None:
    first = finished(live)
    apiq("artifacts", "download", first, "--dir", "my out")
    submit = ["quantize", "tiny", "--bits", "2", "--label", "taken=1", "--download"]
    (line,) = apiq(*submit, "my out", code=1).stderr.splitlines()
    assert f"`apiq artifacts download {first} --dir 'my out'`" in line
    assert line.endswith("[directory_taken]")
    (tmp_path / "a-file").write_text("")
    assert "is a file" in apiq(*submit, "a-file", code=2).stderr
    assert live.http.get("/jobs", params={"label.taken": "1"}).json()["jobs"] == []
