"""A job goes on where another worker left it, and its files are those of a quiet run.

The real child imports torch for seconds: what it does with a checkpoint once that is there is
asked on one column.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apiq_core.quantize import quantize
from jobs import checkpoints, intake, leases, repository
from jobs.artifacts import Stored
from jobs.checkpoints import Checkpoint
from jobs.intake import Order
from jobs.job import Job
from jobs.requests import QuantizeRequest
from jobs.settings import Settings
from jobs.states import State
from tests.fault.worker.running import running
from tests.fault.worker.support import HERE, House, eventually
from tests.tiny_models import make_tiny
from worker import checkpoints as worker_checkpoints
from worker import patience
from worker.app import CHILD_COMMAND
from worker.context import Worker
from worker.supervisor import supervise
from worker.sweeper import sweep

BLOCKS = 3
REQUEST: dict[str, Any] = {
    "bits": 2,
    "rank": 4,
    "model": "tiny",
    "calibration": {"source": "builtin", "samples": 4, "length": 32, "held_out": 2},
    "evaluation": {"samples": 0},
    "training": {"epochs": 1, "batch_size": 2},
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # seconds of torch on a busy machine: the lease must not be the thing under test
    return settings.model_copy(
        update={"lease_ttl_s": 60.0, "device": "cpu", "retry_backoff_s": 0.0}
    )


class Hosts:
    """Hosts that share records, artifacts and models, and nothing else."""

    def __init__(self, house: House, tmp_path: Path) -> None:
        self.house = house
        self.tmp_path = tmp_path
        self.model_dir = make_tiny(house.settings.models_dir / "tiny", layers=BLOCKS)
        request = QuantizeRequest.model_validate(REQUEST)
        resolved = intake.resolve_order(Order(request), house.settings).request
        assert isinstance(resolved, QuantizeRequest)
        self.request = resolved

    def accept(self) -> Job:
        with self.house.database.begin() as connection:
            return repository.accept(connection, type="quantize", input=self.request.to_input())

    def run(self, *dies: str) -> Job:
        """One attempt by a worker with an empty scratch; its child may be one that dies."""
        with self.house.database.begin() as connection:
            job = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
        assert job is not None
        host = self.tmp_path / f"host-{job.attempt}"
        settings = self.house.settings.model_copy(update={"data_dir": host})
        dying = [sys.executable, str(HERE / "dying_child.py"), *dies]
        command = dying if dies else CHILD_COMMAND
        supervise(Worker(settings, self.house.database, self.house.store, command), job)
        assert list(settings.scratch_dir.iterdir()) == []
        return self.house.get(job)

    def undisturbed(self) -> dict[str, str]:
        """sha256 of the files in `model/` and `adapter/` of a run that nothing happened to."""
        out_dir = self.tmp_path / "undisturbed"
        quantize(self.model_dir, out_dir, self.request.config(), device="cpu")
        return {
            path.relative_to(out_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for name in ("model", "adapter")
            for path in (out_dir / name).iterdir()
        }

    def published(self, job: Job) -> dict[str, str]:
        files = self.house.artifacts(job)
        assert {file.key for file in files} == self.house.stored_files()  # and nothing is left
        return {file.path: file.sha256 for file in files if "/" in file.path}


@pytest.fixture
def hosts(house: House, tmp_path: Path) -> Hosts:
    return Hosts(house, tmp_path)


def rows(house: House, job: Job) -> list[Checkpoint]:
    with house.database.read() as connection:
        return checkpoints.of_job(connection, job.id)


def data(house: House, job: Job, kind: str) -> list[dict[str, Any]]:
    return [event.data for event in house.events(job) if event.type == kind]


def test_killed_around_every_block(hosts: Hosts) -> None:
    house, job = hosts.house, hosts.accept()
    deaths = [("told", "0"), ("written", "1"), ("told", "1"), ("told", "2")]
    counts = []
    for when, block in deaths:
        job = hosts.run(when, block)
        assert job.state == State.QUEUED
        counts.append((job.loss_block, job.infra_losses))
        assert {row.key for row in rows(house, job)} == house.stored_files()
    assert counts == [(1, 1), (1, 2), (2, 1), (3, 1)]
    job = hosts.run()
    assert (job.state, job.attempt, job.error) == (State.SUCCEEDED, 5, None)
    assert hosts.published(job) == hosts.undisturbed()
    assert rows(house, job) == []
    # what was told was never done again; what was only written once
    assert [event["index"] for event in data(house, job, "block")] == [0, 1, 2]
    assert [event["blocks"] for event in data(house, job, "resumed")] == [1, 1, 2, 3]
    assert data(house, job, "warning") == []
    for lost in data(house, job, "retrying"):
        assert "signal 9" in lost["error"]["message"]


def flip_a_bit(house: House, key: str) -> None:
    content = bytearray(house.content(key))
    content[-1] ^= 1  # in the last tensor: it would still load
    flipped = house.settings.data_dir / "flipped"
    flipped.write_bytes(content)
    house.store.put_file(key, flipped)


def remove(house: House, key: str) -> None:
    house.store.delete_prefix(key)


@pytest.mark.column("production")
@pytest.mark.parametrize("damage", [flip_a_bit, remove])
def test_a_damaged_checkpoint(hosts: Hosts, damage: Callable[[House, str], None]) -> None:
    house, job = hosts.house, hosts.accept()
    job = hosts.run("told", "2")
    damage(house, rows(house, job)[1].key)
    job = hosts.run()
    assert job.state == State.SUCCEEDED
    assert hosts.published(job) == hosts.undisturbed()
    (warning,) = data(house, job, "warning")
    assert (warning["code"], warning["block"]) == ("checkpoint_damaged", 1)
    assert [event["blocks"] for event in data(house, job, "resumed")] == [1]
    assert [event["index"] for event in data(house, job, "block")] == [0, 1, 2, 1, 2]


@pytest.mark.column("embedded")
def test_a_checkpoint_of_another_identity(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    house, job = hosts.house, hosts.accept()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the next host has another number of cores
    hosts.run("told", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job = hosts.run("told", "0")
    (warning,) = data(house, job, "warning")
    assert (warning["code"], warning["block"]) == ("checkpoint_discarded", 0)
    assert warning["differs"] == ["threads"]
    assert [(row.block, row.attempt) for row in rows(house, job)] == [(0, 2)]
    assert (job.loss_block, job.infra_losses) == (2, 2)  # it got no further than before


# from here on with the scripted child, whose blocks are a few bytes


def run_once(worker: Worker) -> None:
    with worker.database.begin() as connection:
        job = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
    assert job is not None
    supervise(worker, job)


def test_three_losses_at_one_block_fail_and_name_it(house: House, worker: Worker) -> None:
    job = house.accept("killed", ring=False, blocks=[2, 0, 1, 0, 0])
    counts = []
    while not house.get(job).is_terminal:
        run_once(worker)
        counts.append((house.get(job).loss_block, house.get(job).infra_losses))
    assert counts == [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]
    job = house.get(job)
    assert job.state == State.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["block"], job.error["losses"]) == ("worker_crashed", 3, 3)
    assert job.error["message"].endswith("; 3 times at block 3, quantizing")
    assert (house.stored_files(), rows(house, job)) == (set(), [])


class FailingStore:
    """A column's store; blocks cannot be stored, or not be read, so many times."""

    def __init__(self, house: House, puts: int = 0, gets: int = 0) -> None:
        self._store = house.store
        self.puts, self.gets = puts, gets

    def put_file(self, key: str, path: Path) -> Stored:
        if "/blocks/" in key and self.puts:
            self.puts -= 1
            raise ConnectionError("the store is away")
        return self._store.put_file(key, path)

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if "/blocks/" in key and self.gets:
            self.gets -= 1
            raise ConnectionError("the store is away")
        return self._store.open_range(key, start, end)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_store_that_is_away_only_delays_a_checkpoint(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_checkpoints, "RETRY_PAUSE_S", 0.1)
    job = house.accept("wait", ring=False, blocks=[3, 0])
    worker = replace(worker, store=FailingStore(house, puts=4))
    with running(worker):
        eventually(lambda: len(rows(house, job)) == 3, "checkpoints")
        assert house.get(job).state == State.RUNNING
        assert [row.block for row in rows(house, job)] == [0, 1, 2]
        worker.drain.set()


def test_a_store_that_is_away_for_a_moment_loses_no_checkpoint(
    house: House, worker: Worker
) -> None:
    job = house.accept("killed", bad_attempts=1, ring=False, blocks=[2])
    run_once(worker)
    run_once(replace(worker, store=FailingStore(house, gets=2)))
    assert house.get(job).state == State.SUCCEEDED
    assert data(house, job, "warning") == []
    assert "2 blocks are there" in house.log(job, 2)


def test_a_store_that_stays_away_costs_the_blocks_and_not_the_job(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    job = house.accept("killed", bad_attempts=1, ring=False, blocks=[2])
    run_once(worker)
    run_once(replace(worker, store=FailingStore(house, gets=1000)))
    assert house.get(job).state == State.SUCCEEDED
    (warning,) = data(house, job, "warning")
    assert (warning["code"], warning["block"]) == ("checkpoint_damaged", 0)
    assert "the store is away" in warning["message"]
    assert "0 blocks are there" in house.log(job, 2)


@pytest.mark.parametrize("order", ["cancel", "drain"])
def test_a_worker_that_waits_for_its_store_still_listens(
    house: House, worker: Worker, order: str
) -> None:
    job = house.accept("killed", bad_attempts=1, ring=False, blocks=[2])
    run_once(worker)
    store = FailingStore(house, gets=100_000)
    with running(replace(worker, store=store)):
        eventually(lambda: store.gets < 100_000, "a try")
        if order == "cancel":
            house.cancel(job)
        else:
            worker.drain.set()
        eventually(lambda: house.get(job).state not in (State.RUNNING, State.CANCELLING))
    if order == "cancel":
        assert house.get(job).state == State.CANCELLED
        assert (house.stored_files(), rows(house, job)) == (set(), [])
    else:
        assert (house.get(job).state, house.get(job).infra_losses) == (State.QUEUED, 1)
        assert len(rows(house, job)) == len(house.stored_files()) == 2


def test_a_job_that_is_cancelled_in_the_queue_leaves_nothing(house: House, worker: Worker) -> None:
    job = house.accept("killed", ring=False, blocks=[2])
    run_once(worker)
    assert len(house.stored_files()) == 2
    assert house.cancel(job).state == State.CANCELLED
    patient = house.settings.model_copy(update={"sweep_interval_s": 60.0})  # all in one sweep
    sweep(replace(worker, settings=patient))
    assert (house.stored_files(), rows(house, job)) == (set(), [])


def test_an_attempt_that_lost_its_lease_leaves_the_checkpoints_to_the_next(
    house: House, worker: Worker
) -> None:
    job = house.accept("wait", bad_attempts=1, ring=False, blocks=[2])
    with running(worker):
        eventually(lambda: len(rows(house, job)) == 2, "checkpoints")
        with house.database.begin() as connection:
            error = {"code": "worker_lost", "message": "", "fault": "infra", "retryable": True}
            leases.lose(connection, repository.get(connection, job.id), error, house.settings)
            worker.drain.set()
    assert {row.key for row in rows(house, job)} == house.stored_files()
    run_once(Worker(house.settings, house.database, house.store, worker.child_command))
    assert "2 blocks are there" in house.log(job, 2)
    house.check_published_by(job, 2)
