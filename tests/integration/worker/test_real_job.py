"""The real command line, the real child, the real core, on a tiny model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from safetensors import safe_open

from api.app import create_app
from jobs import doorbell, intake, repository
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.intake import Order
from jobs.job import Job
from jobs.requests import QuantizeRequest
from jobs.settings import Settings
from jobs.states import State
from tests.fault.worker.support import House, eventually, worker_process
from tests.integration.api.hub_server import Hub, serve_hub
from tests.tiny_models import make_tiny

SMALL: dict[str, Any] = {
    "bits": 2,
    "model": "tiny",
    "calibration": {"source": "builtin", "samples": 4, "length": 32, "held_out": 2},
    "evaluation": {"samples": 2, "length": 32},
    "training": {"epochs": 1, "batch_size": 2},
}


@pytest.fixture
def house(settings: Settings, database: Database, store: ArtifactStore) -> House:
    # seconds of torch on a busy machine: the lease must not be the thing under test
    settings = settings.model_copy(update={"lease_ttl_s": 60.0, "device": "cpu"})
    return House(settings, database, store)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield hub


def accept(house: House, **changes: Any) -> Job:
    order = Order(QuantizeRequest.model_validate(SMALL | changes))
    request = intake.resolve_order(order, house.settings).request
    with house.database.begin() as connection:
        job = repository.accept(connection, type="quantize", input=request.to_input())
    doorbell.ring(house.settings, job)
    return job


def test_quantize_through_the_real_worker(house: House, hub: Hub, tmp_path: Path) -> None:
    model = make_tiny(house.settings.models_dir / "tiny")
    shutil.copytree(model, hub.root / "models" / "org" / "once")
    environment = os.environ | house.settings.environment()
    process = subprocess.Popen([sys.executable, "-m", "worker"], env=environment)
    try:
        good = accept(house, model="org/once")
        good = eventually(lambda: _ended(house, good), "the end", within_s=180)
        assert good.state == State.SUCCEEDED, good.error

        budget = accept(house, model="org/once", bits=None, bits_per_weight=4.0)
        hub.requests.clear()  # what was asked for to accept it
        budget = eventually(lambda: _ended(house, budget), "the end", within_s=180)
        assert hub.fetched() == set()  # the job before has

        # weights that are no numbers, which no header tells: the user's fault, in the core's words
        with (model / "model.safetensors").open("rb+") as file:
            file.seek(-64, os.SEEK_END)
            file.write(b"\xff" * 64)
        bad = accept(house, model="tiny")
        bad = eventually(lambda: _ended(house, bad), "the end", within_s=180)

        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()

    assert good.metrics is not None
    assert {"perplexity", "kl", "bits_per_weight", "bytes", "seconds"} <= good.metrics.keys()
    phases = [e.data["phase"] for e in house.events(good) if e.type == "phase"]
    assert phases == [
        "downloading",
        "calibrating",
        "quantizing",
        "evaluating",
        "packaging",
        "uploading",
    ]
    assert good.progress is not None and good.progress["percent"] == 100
    files = {file.path: file for file in house.artifacts(good)}
    assert {
        "README.md",
        "report.json",
        "report.html",
        "manifest.json",
        "model/config.json",
        "model/tokenizer.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    } <= files.keys()
    manifest = json.loads(house.content(files["manifest.json"].key))
    assert manifest["model"] == "org/once"
    assert manifest["revision"] == good.input["revision"]
    assert manifest["config"]["seed"] == 0
    assert manifest["calibration"]["source"] == "builtin"
    assert "torch" in manifest["versions"]
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(house.content(files["adapter/adapter_model.safetensors"].key))
    with safe_open(adapter, framework="pt") as tensors:
        assert len(list(tensors.keys())) == 2 * 7 * 2  # A and B of 7 layers in 2 blocks

    assert budget.state == State.SUCCEEDED, budget.error
    assert budget.metrics is not None and budget.metrics["bits_per_weight"]["total"] <= 4
    assert "planning" in [e.data["phase"] for e in house.events(budget) if e.type == "phase"]

    assert bad.state == State.FAILED
    assert bad.error is not None
    assert (bad.error["code"], bad.error["fault"], bad.attempt) == ("corrupt_weights", "user", 1)
    assert house.artifacts(bad) == []
    assert house.no_scratch_left()


def test_a_model_from_one_request(house: House) -> None:
    """POST to a finetuned adapter, by way of a quantize job; by L4Q to integers; and as it is."""
    make_tiny(house.settings.models_dir / "tiny")
    rows = [{"question": f"{n} and 1?", "answer": f"{n + 1}"} for n in range(12)]
    options = {name: SMALL[name] for name in ("calibration", "evaluation")}
    with TestClient(create_app(house.settings), base_url="http://localhost") as http:
        dataset = http.post(
            "/datasets",
            content="\n".join(map(json.dumps, rows)),
            headers={"content-type": "application/jsonl"},
        ).json()
        asked = {
            "type": "finetune",
            "base": "tiny",
            "bits": 2,
            "dataset": dataset["id"],
            "max_length": 64,
            "batch_size": 4,
            "answered_rows": 0,
        }
        first = {"quantize": options | {"method": "loftq", "rank": 4}}
        jobs = []
        for fields in (first, {"method": "l4q"}, {"bits": None}):
            answer = http.post("/jobs", json=asked | fields)
            assert answer.status_code == 202, answer.text
            jobs.append(house.get_by_id(answer.json()["id"]))
    with worker_process(house.settings, command=(sys.executable, "-m", "worker")):
        job, l4q, plain = (
            eventually(partial(_ended, house, job), "the end", within_s=180) for job in jobs
        )
    assert (job.state, l4q.state) == (State.SUCCEEDED, State.SUCCEEDED), (job.error, l4q.error)
    # the libraries' warnings to each other are no news to whose job it is, nor last words
    assert not any(house.has_log(each, 1) for each in (job, l4q, plain))
    base = house.get_by_id(job.input["base"])
    assert (base.state, base.made_for, base.input["method"]) == (
        State.SUCCEEDED,
        job.id,
        "loftq",
    )
    files, of_base = ({f.path: f for f in house.artifacts(each)} for each in (job, base))
    assert {"adapter/adapter_model.safetensors", "report.json"} <= files.keys()
    manifest = json.loads(house.content(files["manifest.json"].key))
    assert manifest["base"] == base.id
    assert manifest["base_manifest_sha256"] == of_base["manifest.json"].sha256
    assert manifest["model"] == "tiny"
    quantized = json.loads(house.content(of_base["manifest.json"].key))
    assert (quantized["context_length"], quantized["config"]["rank"]) == (512, 4)
    adapters = [each["adapter/adapter_model.safetensors"].sha256 for each in (files, of_base)]
    assert adapters[0] != adapters[1]  # it was trained
    published = {file.path for file in house.artifacts(l4q)}
    assert "model/config.json" in published
    assert not any(path.startswith("adapter/") for path in published)
    assert "base_manifest_sha256" not in l4q.input
    (card,) = (file for file in house.artifacts(plain) if file.path == "README.md")
    assert b'from_pretrained("path/to/base")' in house.content(card.key)  # "tiny" is on no hub


def _ended(house: House, job: Job) -> Job | None:
    found = house.get(job)
    return found if found.is_terminal else None
