"""What a sweep clears away."""

from dataclasses import replace
from typing import Any

from jobs import leases
from jobs.directories import in_use
from tests.fault.worker.support import House
from worker.context import Worker
from worker.sweeper import prune_scratch, sweep


def test_scratch_of_the_dead_is_cleared_and_of_the_living_kept(
    house: House, worker: Worker
) -> None:
    job = house.accept()
    with house.database.begin() as connection:
        leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
    names = [f"{job.id}.1", f"{job.id}.0", "job_unknown.1", "odd.name"]
    for name in names:
        (house.settings.scratch_dir / name / "out").mkdir(parents=True)
    (house.settings.scratch_dir / "somebodys.file").touch()
    prune_scratch(worker)
    left = {path.name for path in house.settings.scratch_dir.iterdir()}
    assert left == {f"{job.id}.1", "somebodys.file"}


def test_scratch_is_kept_until_its_supervisor_has_heard_of_the_end(
    house: House, worker: Worker
) -> None:
    directory = house.settings.scratch_dir / "job_that_has_ended.1"
    with in_use(directory):
        prune_scratch(worker)
        assert directory.is_dir()
    prune_scratch(worker)
    assert not directory.exists()


def test_a_sweep_ends_what_is_lost_and_clears_its_files(house: House, worker: Worker) -> None:
    job = house.accept()
    settings = house.settings.model_copy(
        update={"max_infra_losses": 1, "sweep_interval_s": 60.0}  # all of it in one sweep
    )
    with house.database.begin() as connection:
        leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=-1)
    file = house.settings.data_dir / "file"
    file.write_text("uploaded before the worker died")
    house.store.put_file(f"jobs/{job.id}/attempts/1/files/model/x", file)
    sweep(replace(worker, settings=settings))
    found: dict[str, Any] | None = house.get(job).error
    assert found is not None and found["code"] == "worker_lost"
    assert house.stored_files() == set()
