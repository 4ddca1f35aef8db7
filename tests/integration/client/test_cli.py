"""The `apiq` command as a process, against a real server."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.integration.api.live import Live
from tests.integration.client.command import APIQ, FILES, Command


class TestQuantize:
    def test_prints_the_id_and_sends_the_options(self, apiq: Command) -> None:
        options = ["--bits", "3", "--group-size", "-1", "--calibration-samples", "5"]
        options += [
            "--method",
            "apiq-bw",
            "--label",
            "team=search",
            "--formats",
            "compressed-tensors",
        ]
        job_id = apiq("quantize", "tiny", *options).stdout.strip()
        job = json.loads(apiq("jobs", "show", job_id, "--json").stdout)
        assert (job["input"]["bits"], job["input"]["group_size"]) == (3, -1)
        assert job["input"]["calibration"]["samples"] == 5
        assert job["labels"] == {"team": "search"}

    def test_wait_and_download(self, apiq: Command, live: Live, tmp_path: Path) -> None:
        process = apiq.start("quantize", "tiny", "--bits", "2", "--download", "out", "--json")
        assert process.stderr is not None
        job_id = process.stderr.readline().strip()
        claimed = live.claim_only(job_id)
        progress = {"done": 1, "total": 2, "unit": "blocks", "percent": 50, "eta_seconds": 61}
        live.record(claimed, phase="quantizing", progress=progress)
        lines = [process.stderr.readline().strip()]
        while lines[-1] != "quantizing 50% ETA 1:01":
            lines.append(process.stderr.readline().strip())
        live.publish(claimed, FILES)
        out, rest = process.communicate(timeout=60)
        assert process.returncode == 0
        assert set(lines[:-1]) <= {"queued", "running"}
        assert rest.splitlines() == ["succeeded", "2 files, 10.0 kB, in out"]
        assert json.loads(out)["state"] == "succeeded"
        for path, content in FILES.items():
            assert (tmp_path / "out" / path).read_bytes() == content

    def test_one_bar_on_a_terminal(self, apiq: Command, live: Live, tmp_path: Path) -> None:
        terminal, slave = pty.openpty()
        termios.tcsetwinsize(slave, (25, 80))
        job_id_file = tmp_path / "job.json"
        with job_id_file.open("w") as out:
            process = subprocess.Popen(
                [*APIQ, "quantize", "tiny", "--bits", "2", "--wait", "--json"],
                env=apiq.environment | {"TERM": "xterm"},
                stdout=out,
                stderr=slave,
            )
        os.close(slave)
        seen = ""
        while "queued" not in seen:
            seen += os.read(terminal, 4096).decode()
        match = re.search(r"job_[0-9a-f-]{36}", seen)
        assert match
        claimed = live.claim_only(match[0])
        progress = {"done": 1, "total": 2, "unit": "blocks", "percent": 50, "eta_seconds": 61}
        live.record(claimed, phase="quantizing", progress=progress)
        while "ETA 1:01" not in seen:
            seen += os.read(terminal, 4096).decode()
        assert re.search(r"quantizing .* 50% .*ETA 1:01", seen)
        live.publish(claimed, {})
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(terminal, 4096):
                seen += chunk.decode()
        os.close(terminal)
        assert process.wait(60) == 0
        assert "succeeded" in seen and "100%" in seen
        assert json.loads(job_id_file.read_text())["state"] == "succeeded"

    def test_a_wait_ends_with_what_comes_next(self, apiq: Command, live: Live) -> None:
        process = apiq.start("quantize", "tiny", "--bits", "2", "--wait")
        assert process.stderr is not None
        job_id = process.stderr.readline().strip()
        live.publish(live.claim_only(job_id), FILES)
        _, rest = process.communicate(timeout=60)
        assert rest.splitlines()[-1] == f"download it  apiq artifacts download {job_id}"
        apiq("artifacts", "download", job_id)

    def test_wait_for_a_job_that_fails(self, apiq: Command, live: Live) -> None:
        process = apiq.start("quantize", "tiny", "--bits", "2", "--wait")
        assert process.stderr is not None
        job_id = process.stderr.readline().strip()
        error = {"code": "disk_full", "message": "no space", "fault": "infra", "retryable": True}
        live.fail(live.claim_only(job_id), error)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 1
        assert rest.splitlines()[-1] == f"error: {job_id} failed: no space [disk_full]"

    @pytest.mark.parametrize("options", [["--wait"], ["--download", "out"]])
    def test_a_ctrl_c_ends_the_wait_and_not_the_job(
        self, apiq: Command, live: Live, options: list[str]
    ) -> None:
        process = apiq.start("quantize", "tiny", "--bits", "2", *options)
        assert process.stderr is not None
        job_id = process.stderr.readline().strip()
        assert process.stderr.readline() == "queued\n"
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 130
        fetch = f"apiq artifacts download {job_id}" + (" --dir out" if "out" in options else "")
        told = [f"{job_id} goes on without you:", f"apiq events -f {job_id}"]
        told += [f"apiq jobs cancel {job_id}", fetch]
        # a signal that meets the line while it is printed has it printed once more
        lines = [line for line in rest.splitlines() if line != "queued"]
        for line, end in zip(lines, told, strict=True):
            assert line.endswith(end)
        assert live.http.get(f"/jobs/{job_id}").json()["state"] == "queued"
        live.publish(live.claim_only(job_id), FILES)
        for line in lines[1:]:
            command = line.split("apiq ")[1].split()
            apiq(*command, code=1 if "cancel" in command else 0)  # it has succeeded meanwhile

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["tiny", "--bits", "5"], "error: bits is 5; legal: 2, 3, 4 or 8 [invalid_request]"),
            (
                ["tiny", "--bits", "2", "--group-size", "128"],
                "error: group_size 128 does not divide the 64 inputs of mlp.gate_proj; legal for "
                "this model: 32, 64, -1 [group_size_does_not_divide]",
            ),
        ],
    )
    def test_refusals_are_one_line(self, apiq: Command, arguments: list[str], line: str) -> None:
        done = apiq("quantize", *arguments, code=1)
        assert done.stderr == line + "\n"
        assert done.stdout == ""

    def test_unknown_model_says_where_it_looked(self, apiq: Command, live: Live) -> None:
        (line,) = apiq("quantize", "org/none", "--bits", "2", code=1).stderr.splitlines()
        assert str(live.context.settings.models_dir / "org/none") in line
        assert "there are tiny" in line and "`apiq models import " in line
        assert line.endswith("[hub_unreachable]")


def test_list_show_cancel_events_logs(apiq: Command, live: Live) -> None:
    job_id = apiq("quantize", "tiny", "--bits", "2", "--label", "x=1").stdout.strip()
    header, row = apiq("jobs", "list", "--label", "x=1").stdout.splitlines()
    assert header.split()[:2] == ["ID", "STATE"]
    assert row.split()[2:6] == ["tiny", "apiq-bw", "fast", "2"]
    listed = json.loads(apiq("jobs", "list", "--label", "x=1", "--json").stdout)
    assert [job["id"] for job in listed["jobs"]] == [job_id]
    trained = apiq("jobs", "list", "--label", "x=1", "--type", "finetune", "--json").stdout
    assert json.loads(trained)["jobs"] == []
    assert job_id in apiq("jobs", "list", "--label", "x=1", "--type", "quantize").stdout
    shown = apiq("jobs", "show", job_id).stdout
    assert re.search(r"^state +queued$", shown, re.M)
    assert re.search(r"^input.bits +2$", shown, re.M)
    assert "True" not in shown and "False" not in shown
    live.put_log(live.claim_only(job_id), b"one\ntwo\n")
    assert apiq("logs", job_id, "--tail", "1").stdout == "two\n"
    assert apiq("jobs", "cancel", job_id).stdout == f"{job_id} cancelling\n"
    assert [line.split()[2] for line in apiq("events", job_id).stdout.splitlines()] == [
        *("accepted", "started", "cancelling")
    ]
    again = apiq("jobs", "cancel", job_id)  # is no error
    assert again.stdout == f"{job_id} cancelling\n"


def test_what_a_job_says_commands_no_terminal(apiq: Command, live: Live) -> None:
    said = "a\x1b]52;c;cm0=\x07\x9bb"
    job_id = apiq("quantize", "tiny", "--bits", "2").stdout.strip()
    claimed = live.claim_only(job_id)
    live.record(claimed, ("warning", {"code": "odd", "message": said}))
    live.put_log(claimed, f"{said}\n".encode())
    last = apiq("events", job_id).stdout.splitlines()[-1]
    assert last.endswith("message=a\ufffd]52;c;cm0=\ufffd\ufffdb")
    last = apiq("events", job_id, "--json").stdout.splitlines()[-1]
    assert last.isascii() and last.isprintable() and json.loads(last)["data"]["message"] == said
    assert apiq("logs", job_id).stdout == f"{said}\n"  # no terminal
    terminal, slave = pty.openpty()
    subprocess.run([*APIQ, "logs", job_id], env=apiq.environment, stdout=slave, check=True)
    os.close(slave)
    seen = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert seen == "a\ufffd]52;c;cm0=\ufffd\ufffdb\r\n"
    apiq("jobs", "cancel", job_id)


def test_a_list_as_json_is_what_the_server_answers(apiq: Command, live: Live) -> None:
    finished = live.finished(FILES)
    ids = [
        *(apiq("quantize", "tiny", "--bits", "2", "--label", "page=1").stdout.strip() for _ in "12")
    ][::-1]
    listing = ["jobs", "list", "--label", "page=1", "--limit", "1", "--json"]
    page = json.loads(apiq(*listing).stdout)
    answer = live.http.get("/jobs", params={"label.page": "1", "limit": 1}).json()
    assert page.keys() == {"jobs", "next"} == answer.keys()
    assert page["next"] == answer["next"] and page["jobs"][0].items() >= answer["jobs"][0].items()
    rest = json.loads(apiq(*listing, "--after", page["next"]).stdout)
    assert [job["id"] for job in page["jobs"] + rest["jobs"]] == ids
    assert rest["next"] is None
    listed = json.loads(apiq("artifacts", "list", finished["id"], "--json").stdout)
    assert listed == live.http.get(f"/jobs/{finished['id']}/artifacts").json()
    listed = json.loads(apiq("datasets", "list", "--json").stdout)  # of all pages
    datasets, params = [], {"limit": "100"}
    while "after" not in params or params["after"]:
        answer = live.http.get("/datasets", params=params).json()
        datasets += answer["datasets"]
        params["after"] = answer["next"]
    assert listed["datasets"] == datasets


class TestFinetune:
    @pytest.fixture
    def dataset(self, apiq: Command, live: Live, tmp_path: Path) -> str:
        """Some words to learn, and nothing in the queue."""
        for job in live.http.get("/jobs", params={"state": "queued"}).json()["jobs"]:
            live.http.post(job["urls"]["cancel"])
        (tmp_path / "words.txt").write_text("Some words to learn. " * 30)
        return apiq("datasets", "upload", "words.txt").stdout.strip()

    def test_a_model_is_quantized_first(self, apiq: Command, live: Live, dataset: str) -> None:
        options = ["--bits", "2", "--quantize-method", "loftq", "--quantize-rank", "4"]
        options += ["--quantize-calibration-samples", "3", "--epochs", "2", "--label", "a=b"]
        job = json.loads(apiq("finetune", "tiny", dataset, *options, "--json").stdout)
        assert (job["input"]["epochs"], job["labels"]) == (2, {"a": "b"})
        base = live.http.get(f"/jobs/{job['waits_for']}").json()
        asked = base["input"]
        assert (asked["bits"], asked["method"], asked["rank"]) == (2, "loftq", 4)
        assert (asked["calibration"]["samples"], base["labels"]) == (3, {"a": "b"})
        row, _ = apiq("jobs", "list", "--label", "a=b").stdout.splitlines()[1:]
        assert "queued  waits for its base  tiny" in row

    def test_both_are_followed(self, apiq: Command, live: Live, dataset: str) -> None:
        process = apiq.start("finetune", "tiny", dataset, "--bits-per-weight", "4", "--wait")
        assert process.stderr is not None
        job_id = process.stderr.readline().strip()
        base = live.claim()
        assert process.stderr.readline().strip() == f"waits for {base.id}"
        live.publish(base, FILES | {"manifest.json": b"{}"})
        while process.stderr.readline().strip() != "succeeded":
            pass
        job = live.claim()
        assert job.id == job_id
        live.publish(job, FILES)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 0
        assert rest.splitlines()[-3:] == [
            "succeeded",
            f"download it  apiq artifacts download {job.id}",
            f"its base     apiq artifacts download {base.id} 'model/*' --dir {job.id}/base",
        ]

    def test_a_base_that_fails(self, apiq: Command, live: Live, dataset: str) -> None:
        process = apiq.start("finetune", "tiny", dataset, "--bits", "2", "--wait")
        assert process.stderr is not None
        process.stderr.readline()
        base_id = process.stderr.readline().strip().removeprefix("waits for ")
        error = {"code": "disk_full", "message": "no space", "fault": "infra", "retryable": True}
        live.fail(live.claim(), error)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 1
        assert rest.splitlines()[-1].endswith(
            f"{base_id}, which this job was to train on, has failed, disk_full: no space "
            "[base_failed]"
        )

    def test_refusals_name_the_field(self, apiq: Command, dataset: str) -> None:
        for options, line in (
            (["--bits", "5"], "error: bits is 5; legal: 2, 3, 4 or 8 [invalid_request]"),
            (
                ["--quantize-method", "rtn"],
                'error: quantize is {"method": "rtn"}: legal only with bits or bits_per_weight, '
                "which quantize the base [invalid_request]",
            ),
        ):
            assert apiq("finetune", "tiny", dataset, *options, code=1).stderr == line + "\n"


def test_every_field_of_a_job_is_an_option(apiq: Command) -> None:
    options = ["--priority", "-7", "--device-class", "cpu"]
    options += ["--max-pending-s", "60", "--max-runtime-s", "61"]
    options += ["--metadata", "run=7", "--metadata", "by=a=b"]
    job = json.loads(apiq("quantize", "tiny", "--bits", "2", *options, "--json").stdout)
    assert (job["priority"], job["device_class"]) == (-7, "cpu")
    assert (job["max_pending_s"], job["max_runtime_s"]) == (60, 61)
    assert job["metadata"] == {"run": "7", "by": "a=b"}
    for option, value, part in (
        ("--priority", "101", "priority is 101; legal: at most 100"),
        ("--device-class", "tpu", "device_class is 'tpu'; legal: 'any', 'cpu' or 'cuda'"),
        ("--max-runtime-s", "0", "max_runtime_s is 0; legal: at least 1"),
    ):
        (line,) = apiq("quantize", "tiny", "--bits", "2", option, value, code=1).stderr.splitlines()
        assert part in line


def test_a_hub_token_comes_from_the_environment(apiq: Command) -> None:
    submit = ["quantize", "tiny", "--bits", "2", "--hub-token-from-env", "MY_TOKEN"]
    assert "no environment variable" in apiq(*submit, code=2).stderr
    apiq.environment["MY_TOKEN"] = "hf_the_canary"  # this server has no secret key
    assert apiq(*submit, code=1).stderr.endswith("[no_secret_key]\n")
    apiq.environment["MY_TOKEN"] = "hf the canary"
    (line,) = apiq(*submit, code=1).stderr.splitlines()
    assert "hub_token is [secret]" in line and "canary" not in line


def test_retry_and_delete(apiq: Command) -> None:
    job_id = apiq("quantize", "tiny", "--bits", "2").stdout.strip()
    assert "job_not_retryable" in apiq("jobs", "retry", job_id, code=1).stderr
    assert "job_not_finished" in apiq("jobs", "delete", job_id, code=1).stderr
    apiq("jobs", "cancel", job_id)
    again = apiq("jobs", "retry", job_id).stdout.strip()
    assert again.startswith("job_") and again != job_id
    assert apiq("jobs", "delete", job_id).stdout == f"{job_id} deleted\n"
    assert "job_not_found" in apiq("jobs", "show", job_id, code=1).stderr


def test_events_are_followed_to_the_end(apiq: Command, live: Live) -> None:
    job_id = live.submit()["id"]
    claimed = live.claim_only(job_id)
    process = apiq.start("events", "-f", "--json", job_id)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "accepted"
    assert json.loads(process.stdout.readline())["type"] == "started"
    live.publish(claimed, {})
    out, err = process.communicate(timeout=60)
    assert json.loads(out)["type"] == "succeeded"
    assert (process.returncode, err) == (0, "")


def test_models(apiq: Command, tiny_model: Path, tmp_path: Path) -> None:
    apiq.environment["APIQ_MODELS_DIR"] = "models"
    there = tmp_path / "models"
    listed = apiq("models", "list")
    assert listed.stdout == "" and listed.stderr.startswith(f"there is no model in {there};")
    none = apiq("models", "import", "nothing", "--name", "org/imported", code=1)
    assert none.stderr.endswith("[source_not_found]\n") and not there.exists()
    done = apiq("models", "import", str(tiny_model), "--name", "org/imported")
    assert done.stderr == f"importing {tiny_model} to {there / 'org/imported'}\n"
    assert done.stdout == f"imported org/imported to {there / 'org/imported'}\n"
    listed = apiq("models", "list")
    assert listed.stderr == f"in {there}\n"
    header, row = listed.stdout.splitlines()
    assert (header.split()[0], row.split()[:2]) == ("ID", ["org/imported", "llama"])
    (model,) = json.loads(apiq("models", "list", "--json").stdout)["models"]
    assert model["size_bytes"] == (tiny_model / "model.safetensors").stat().st_size
    again = apiq("models", "import", str(tiny_model), "--name", "org/imported", code=1)
    _, line = again.stderr.splitlines()
    assert line.startswith("error: org/imported is there already")
    assert line.endswith("[model_exists]")


def test_version(apiq: Command, live: Live) -> None:
    versions = json.loads(apiq("version", "--json").stdout)
    assert versions == {"client": "0.1.0", "server": "0.1.0", "url": live.url}
    assert apiq("--version").stdout == "apiq 0.1.0\n"
    apiq.environment["APIQ_URL"] = "http://127.0.0.1:9"
    done = apiq("version", code=1)
    assert done.stdout == "client  0.1.0\n"
    assert "no apiq server answers at http://127.0.0.1:9" in done.stderr


def test_a_server_that_is_not_there(apiq: Command) -> None:
    apiq.environment["APIQ_URL"] = "http://127.0.0.1:9"
    for asked in (("jobs", "list"), ("events", "-f", "job_none")):
        (line,) = apiq(*asked, code=1).stderr.splitlines()
        assert line.startswith("error: no apiq server answers at http://127.0.0.1:9")
        assert line.endswith("[unreachable]")


def test_errors_are_red_on_a_terminal_only(apiq: Command) -> None:
    apiq.environment["FORCE_COLOR"] = "1"
    assert apiq("jobs", "show", "job_none", code=1).stderr.startswith("\x1b[31merror: ")
    del apiq.environment["FORCE_COLOR"]
    assert "\x1b" not in apiq("jobs", "show", "job_none", code=1).stderr
