"""A finetune job goes on where another worker left it, and its adapter is that of a quiet run."""

import hashlib
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from apiq_core.config import QuantizeConfig
from apiq_core.errors import UserError
from apiq_core.quantize import quantize
from jobs import checkpoints, datasets, intake, leases, repository
from jobs.checkpoints import Checkpoint
from jobs.datasets.files import ROWS, TEXT
from jobs.datasets.upload import Upload
from jobs.intake import Order
from jobs.job import Job
from jobs.requests import FinetuneRequest
from jobs.states import State
from tests.fault.worker.support import House, eventually, worker_process
from tests.fault.worker.test_resume import (  # noqa: F401
    BLOCKS,
    REQUEST,
    Hosts,
    data,
    flip_a_bit,
    settings,
)
from tests.tiny_models import make_tiny
from worker import bases
from worker.publish import upload as upload_files

TRAINING: dict[str, Any] = {
    "type": "finetune",
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 64,
    "epochs": 2,
    "checkpoint_every": 2,
    "lr": 1e-2,
    "answered_rows": 1,
    "answer_tokens": 2,
}


@pytest.fixture
def hosts(house: House, tmp_path: Path) -> Hosts:
    return Hosts(house, tmp_path)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the job that is trained on makes; the same in every test."""
    folder = tmp_path_factory.mktemp("base")
    config = {name: value for name, value in REQUEST.items() if name != "model"}
    model_dir = make_tiny(folder / "tiny", layers=BLOCKS)
    quantize(model_dir, folder / "out", QuantizeConfig.model_validate(config), device="cpu")
    return folder / "out"


@pytest.fixture
def base(hosts: Hosts, quantized: Path, tmp_path: Path) -> Job:
    house, job = hosts.house, hosts.accept()
    with house.database.begin() as connection:
        claimed = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
    assert claimed is not None and claimed.id == job.id
    out_dir = Path(shutil.copytree(quantized, tmp_path / "quantized"))
    files = upload_files(house.store, claimed, out_dir, {}, lambda: None)
    with house.database.begin() as connection:
        leases.publish(connection, claimed.id, claimed.attempt, files, {})
    return house.get(job)


@pytest.fixture
def dataset(house: House) -> str:
    """Sums, uploaded."""
    lines = [
        json.dumps({"question": f"What is {n % 7} and {n % 5}?", "answer": f"{n % 7 + n % 5}"})
        for n in range(20)
    ]
    return upload(house, "\n".join(lines).encode(), ROWS)


def upload(house: House, content: bytes, kind: str) -> str:
    with Upload(house.settings, 10**6) as sent:
        sent.begin(kind)
        sent.write(content)
        dataset = sent.finish("sums")
        with house.database.begin() as connection:
            datasets.reserve(connection, dataset, house.settings)
        sent.put(house.store, dataset)
        with house.database.begin() as connection:
            datasets.confirm(connection, dataset)
    return dataset.id


def accept(house: House, base: str, dataset: str, **fields: Any) -> Job:
    request = FinetuneRequest.model_validate(TRAINING | {"base": base, "dataset": dataset} | fields)
    return intake.submit(house.database, Order(request), house.settings)


def published(house: House, job: Job) -> dict[str, str]:
    return {file.path: file.sha256 for file in house.artifacts(job)}


def rows(house: House, job: Job) -> list[Checkpoint]:
    with house.database.read() as connection:
        return checkpoints.of_job(connection, job.id)


def test_killed_while_it_trains(hosts: Hosts, base: Job, dataset: str) -> None:
    house = hosts.house
    quiet = accept(house, base.id, dataset)
    quiet = hosts.run()
    assert quiet.state == State.SUCCEEDED, quiet.error
    before = house.stored_files()
    job = accept(house, base.id, dataset)
    for step in (2, 3, 6):  # a step is told before the state behind it is saved
        job = hosts.run("trained", str(step))
        assert job.state == State.QUEUED
        (row,) = rows(house, job)  # only the latest is kept
        assert row.block == (step - 1) // 2 * 2
        assert house.stored_files() - before == {row.key}
    assert (job.loss_block, job.infra_losses) == (5, 1)
    job = hosts.run()
    assert (job.state, job.attempt) == (State.SUCCEEDED, 4)
    name = "adapter/adapter_model.safetensors"
    assert published(house, job)[name] == published(house, quiet)[name]
    assert [event["step"] for event in data(house, job, "resumed")] == [0, 2, 4]
    assert rows(house, job) == []
    points = [(event["step"], event["validation_loss"]) for event in data(house, quiet, "metrics")]
    assert points[-1] in [(e["step"], e["validation_loss"]) for e in data(house, job, "metrics")]


@pytest.mark.column("embedded")
def test_a_validation_set_is_read_and_named(hosts: Hosts, base: Job, dataset: str) -> None:
    house = hosts.house
    held_out = b'{"question": "What is 0 and 0?", "answer": "0"}\n{"text": "Nothing of it."}\n'
    validation = upload(house, held_out, ROWS)
    job = accept(house, base.id, dataset, validation=validation)
    job = hosts.run("trained", "3")
    assert job.state == State.QUEUED
    job = hosts.run()
    assert job.state == State.SUCCEEDED, job.error
    assert [event["step"] for event in data(house, job, "resumed")] == [2]
    assert {warning["code"] for warning in data(house, job, "warning")} == {"validation_overlaps"}
    files = {file.path: file for file in house.artifacts(job)}
    report = json.loads(house.content(files["report.json"].key))
    assert report["rows"] == {"train": 20, "validation": 2}
    assert (report["overlap"], report["files"]["validation"]["rows"]) == (1, 2)
    manifest = json.loads(house.content(files["manifest.json"].key))
    assert manifest["validation"] == validation
    sha256 = hashlib.sha256(held_out).hexdigest()
    assert manifest["calibration"]["text_sha256"][validation] == sha256


@pytest.mark.column("production")
def test_killed_while_it_trains_the_integers(hosts: Hosts, base: Job, dataset: str) -> None:
    """L4Q publishes a model: that of a quiet run, and no adapter."""
    house = hosts.house
    quiet = accept(house, base.id, dataset, method="l4q")
    quiet = hosts.run()
    assert quiet.state == State.SUCCEEDED, quiet.error
    job = accept(house, base.id, dataset, method="l4q")
    job = hosts.run("trained", "3")
    assert job.state == State.QUEUED
    job = hosts.run()
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert [event["step"] for event in data(house, job, "resumed")] == [2]
    files = published(house, job)
    of_base = {name for name in published(house, base) if name.startswith("model/")}
    expected = of_base | {"README.md", "manifest.json", "report.html", "report.json"}
    assert files.keys() == expected
    assert {name: files[name] for name in of_base} == {
        name: published(house, quiet)[name] for name in of_base
    }
    trained = [name for name in of_base if name.endswith(".safetensors")]
    assert any(files[name] != published(house, base)[name] for name in trained)


@pytest.mark.column("embedded")
def test_a_damaged_checkpoint_begins_anew(hosts: Hosts, base: Job, dataset: str) -> None:
    house, job = hosts.house, accept(hosts.house, base.id, dataset)
    job = hosts.run("trained", "5")
    (row,) = rows(house, job)
    flip_a_bit(house, row.key)
    job = hosts.run()
    assert job.state == State.SUCCEEDED, job.error
    (warning,) = data(house, job, "warning")
    assert warning["code"] == "checkpoint_damaged"
    assert "the state behind step 4" in warning["message"]
    assert "training begins anew" in warning["message"]
    assert data(house, job, "resumed") == []


@pytest.mark.column("production")
def test_a_checkpoint_of_another_identity_begins_anew(
    hosts: Hosts, base: Job, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, job = hosts.house, accept(hosts.house, base.id, dataset)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the next host has another number of cores
    hosts.run("trained", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job = hosts.run("trained", "1")
    (warning,) = data(house, job, "warning")
    assert (warning["code"], warning["differs"]) == ("checkpoint_discarded", ["threads"])
    assert data(house, job, "resumed") == []
    assert [(row.block, row.attempt) for row in rows(house, job)] == [(0, 2)]


@pytest.mark.column("embedded")
def test_what_it_publishes_names_what_it_was_made_from(
    hosts: Hosts, base: Job, dataset: str
) -> None:
    house, job = hosts.house, accept(hosts.house, base.id, dataset)
    job = hosts.run()
    assert job.state == State.SUCCEEDED, job.error
    files = {file.path: file for file in house.artifacts(job)}
    assert files.keys() == {
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "manifest.json",
        "report.html",
        "report.json",
    }
    manifest = json.loads(house.content(files["manifest.json"].key))
    assert manifest["type"] == "finetune"
    assert manifest["base"] == base.id
    assert manifest["base_manifest_sha256"] == published(house, base)["manifest.json"]
    assert (manifest["model"], manifest["dataset"]) == ("tiny", dataset)
    assert manifest["config"]["lr"] == TRAINING["lr"]
    assert job.input["model"] == "tiny"
    report = json.loads(house.content(files["report.json"].key))
    assert manifest["versions"] == report["versions"]
    assert {"torch", "transformers", "peft"} <= manifest["versions"].keys()
    assert job.metrics is not None
    assert job.metrics["validation_loss"] == report["validation_loss"]
    phases = [event["phase"] for event in data(house, job, "phase")]
    assert phases == [
        "downloading",
        "preparing",
        "training",
        "evaluating",
        "packaging",
        "uploading",
    ]
    assert job.progress is not None and job.progress["unit"] == "step"


@pytest.mark.column("production")
def test_a_model_is_a_base_too(hosts: Hosts, dataset: str) -> None:
    job = accept(hosts.house, "tiny", dataset, rank=4)
    job = hosts.run()
    assert job.state == State.SUCCEEDED, job.error
    assert str(job.input["revision"]).startswith("local:")


def test_a_base_stays_while_it_is_trained_on(hosts: Hosts, base: Job, dataset: str) -> None:
    house = hosts.house
    job = accept(house, base.id, dataset)
    with pytest.raises(Exception, match=f"is the base of {job.id}"), house.database.begin() as c:
        repository.delete(c, base.id)
    house.cancel(job)
    with house.database.begin() as connection:
        repository.delete(connection, base.id)


@pytest.mark.column("embedded")
def test_what_no_worker_can_train_on_is_the_users_fault(hosts: Hosts, base: Job) -> None:
    house = hosts.house
    accept(house, base.id, upload(house, b"the " * 20, TEXT))  # more bytes than tokens
    job = hosts.run()
    assert job.state == State.FAILED and job.error is not None
    assert (job.error["code"], job.error["fault"]) == ("too_little_data", "user")


@pytest.mark.column("production")
def test_a_base_that_is_not_what_it_was(hosts: Hosts, base: Job, dataset: str) -> None:
    """Damaged it may be mended, or was read wrongly; what is gone stays so."""
    house, job = hosts.house, accept(hosts.house, base.id, dataset)
    (weights,) = [x for x in house.artifacts(base) if x.path.startswith("model/model.")]
    flip_a_bit(house, weights.key)
    job = hosts.run()
    assert (job.state, job.infra_losses) == (State.QUEUED, 1)
    (lost,) = data(house, job, "retrying")
    assert (lost["error"]["code"], lost["error"]["fault"]) == ("base_damaged", "infra")
    assert f"{weights.path} of the base is not what it was" in lost["error"]["message"]
    house.store.delete_prefix(weights.key)
    job = hosts.run()
    assert (job.state, job.attempt) == (State.FAILED, 2) and job.error is not None
    assert (job.error["code"], job.error["fault"]) == ("base_deleted", "user")
    assert f"{weights.path} of the base was deleted" in job.error["message"]
    with pytest.raises(UserError, match="the base was deleted") as caught:
        bases.fetch([], hosts.tmp_path, house.store, lambda: None)
    assert (caught.value.code, caught.value.param) == ("base_deleted", "base")


@pytest.mark.column("embedded")
def test_a_worker_that_is_asked_to_end_while_it_trains(
    hosts: Hosts, base: Job, dataset: str
) -> None:
    """The job is given back behind the step it was at, between two checkpoints."""
    house, steps = hosts.house, 200
    job = accept(house, base.id, dataset, epochs=steps, max_steps=steps, checkpoint_every=steps)
    patient = house.settings.model_copy(update={"drain_grace_s": 60.0})

    def trains() -> bool:
        progress = house.get(job).progress or {}
        return progress.get("unit") == "step" and progress["done"] > 0

    with worker_process(patient, command=(sys.executable, "-m", "worker")) as process:
        eventually(trains, "training", within_s=120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    job = house.get(job)
    assert (job.state, job.attempt, job.infra_losses) == (State.QUEUED, 1, 0)
    assert data(house, job, "requeued") == [{"reason": "drained"}]
    (row,) = rows(house, job)
    assert 0 < row.block < steps
    hosts.run("trained", str(row.block + 1))  # its end is that of other tests
    assert [event["step"] for event in data(house, job, "resumed")] == [row.block]


@pytest.mark.column("embedded")
def test_what_is_wrong_with_a_model_is_said_of_base(hosts: Hosts, dataset: str) -> None:
    job = accept(hosts.house, "tiny", dataset, rank=4)
    shutil.rmtree(hosts.model_dir)
    job = hosts.run()
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("model_not_found", "base")
