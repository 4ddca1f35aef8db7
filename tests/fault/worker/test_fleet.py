"""One worker process per device: they work side by side, are restarted, drain together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jobs.settings import Settings
from jobs.states import State
from tests.fault.worker.support import HERE, House, eventually, worker_process
from worker import fleet

FLEET = (sys.executable, str(HERE / "scripted_fleet.py"), "cpu", "cpu")


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def worker_of_job(workers: list[psutil.Process], house: House, pid_file: Path) -> psutil.Process:
    """The worker whose child noted itself in `pid_file`."""
    pid = eventually(lambda: pid_file.read_text() if pid_file.exists() else None)
    child = psutil.Process(int(pid))
    (worker,) = [worker for worker in workers if worker.pid == child.ppid()]
    return worker


def test_two_devices_are_two_workers(house: House, tmp_path: Path) -> None:
    files = [tmp_path / "first", tmp_path / "second"]
    jobs = [house.accept("wait", bad_attempts=1, pid_file=str(file)) for file in files]
    with worker_process(house.settings, command=FLEET) as parent:
        for job in jobs:  # at the same time, although each takes one at a time
            eventually(lambda job=job: house.get(job).phase == "quantizing")  # type: ignore[misc]
        workers = workers_of(parent)
        first, second = (worker_of_job(workers, house, file) for file in files)
        assert {first.pid, second.pid} == {worker.pid for worker in workers}
        assert len(workers) == 2
        for worker in workers:
            environment = worker.environ()
            assert environment["APIQ_DEVICE"] == "cpu"
            assert environment["CUDA_VISIBLE_DEVICES"] == ""
            assert "APIQ_DEVICES" not in environment
        # one dies: its job is taken up again, the other's goes on, there are two workers again
        first.kill()
        assert house.wait(jobs[0], State.SUCCEEDED).attempt == 2
        assert house.get(jobs[1]).attempt == 1 and house.get(jobs[1]).state == State.RUNNING
        eventually(lambda: len(workers_of(parent)) == 2, "a worker in its place")
        # told to end: the other job is given back
        workers = workers_of(parent)
        parent.terminate()
        assert parent.wait(30) == 0
        assert house.get(jobs[1]).state == State.QUEUED
        assert not any(worker.is_running() for worker in workers)


def test_no_worker_outlives_its_parent(house: House, tmp_path: Path) -> None:
    with worker_process(house.settings, command=FLEET) as parent:
        eventually(lambda: len(list(house.settings.pulse_dir.glob("*"))) == 2, "two at work")
        workers = workers_of(parent)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: not any(worker.is_running() for worker in workers), "their end")


def test_the_command_and_its_health(house: House) -> None:
    settings = house.settings.model_copy(update={"devices": "cpu,cpu"})

    def healthy() -> bool:
        done = subprocess.run(
            [sys.executable, "-m", "worker.health"],
            env={"APIQ_DATA_DIR": str(settings.data_dir), "APIQ_DEVICES": "cpu,cpu"},
            cwd=HERE.parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "of 2 workers" in done.stdout
        return done.returncode == 0

    assert not healthy()
    command = (sys.executable, "-m", "worker")
    with worker_process(settings, command=command) as parent:
        eventually(healthy, "health")
        for worker in workers_of(parent):
            worker.suspend()
        for file in settings.pulse_dir.iterdir():  # instead of waiting
            os.utime(file, (time.time() - 100, time.time() - 100))
        assert not healthy()
        for worker in workers_of(parent):
            worker.resume()
        eventually(healthy, "health again")
        parent.terminate()
        assert parent.wait(30) == 0


def test_each_sees_its_own_gpu_alone() -> None:
    def seen(device: str, **inherited: str) -> tuple[str, str]:
        environment = fleet.environment_of(device, {"APIQ_DEVICES": "cuda:0,cuda:1"} | inherited)
        assert "APIQ_DEVICES" not in environment
        return environment["APIQ_DEVICE"], environment["CUDA_VISIBLE_DEVICES"]

    assert seen("cuda:1") == ("cuda", "1")
    assert seen("cpu") == ("cpu", "")
    assert seen("cuda:1", CUDA_VISIBLE_DEVICES="4,7") == ("cuda", "7")
    with pytest.raises(SystemExit, match="cuda:2; CUDA_VISIBLE_DEVICES shows 2 GPUs"):
        seen("cuda:2", CUDA_VISIBLE_DEVICES="4,7")
    with pytest.raises(SystemExit, match="shows 0 GPUs"):
        seen("cuda:0", CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize("devices", ["cuda", "cuda:0,", "cpu, cpu", "gpu:0", "auto"])
def test_devices_that_are_none_are_refused(devices: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="devices"):
        Settings(data_dir=tmp_path, devices=devices)


def test_device_or_devices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        Settings(data_dir=tmp_path, device="cpu", devices="cpu,cpu")
