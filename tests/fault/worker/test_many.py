"""Several of everything at once, on shared records."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobs.states import State
from tests.fault.worker.support import House, eventually, worker_process
from tests.integration.api.live import run_api
from tests.integration.api.support import place_model
from tests.tiny_models import make_tiny

JOBS = 60


@pytest.mark.column("production")
def test_every_job_ends_once(house: House, tmp_path: Path) -> None:
    settings = house.settings.model_copy(update={"lease_ttl_s": 30.0})
    place_model(settings.models_dir, make_tiny(tmp_path / "tiny"), "tiny")
    with ExitStack() as stack:
        apis = [stack.enter_context(run_api(settings)) for _ in range(2)]
        for number in range(3):
            stack.enter_context(worker_process(settings, f"worker-{number}"))
        with ThreadPoolExecutor(8) as pool:
            submitted = list(
                pool.map(
                    lambda n: apis[n % 2].submit(calibration={"source": "builtin"}), range(JOBS)
                )
            )
        ids = {job["id"] for job in submitted}
        assert len(ids) == JOBS

        def all_ended() -> bool:
            metrics = apis[0].http.get("/metrics").text.splitlines()
            return f'apiq_jobs{{state="succeeded"}} {JOBS}.0' in metrics

        eventually(all_ended, "the end of every job", within_s=120)
        workers: Counter[str] = Counter()
        for job_id in ids:
            events = apis[1].http.get(f"/jobs/{job_id}/events").json()["events"]
            types = [event["type"] for event in events]
            assert (types.count("started"), types.count("succeeded")) == (1, 1)
            workers[next(e["data"]["worker"] for e in events if e["type"] == "started")] += 1
            job = house.get_by_id(job_id)
            assert (job.state, job.attempt, job.infra_losses) == (State.SUCCEEDED, 1, 0)
        assert len(workers) == 3
    published = {file.key for job_id in ids for file in house.artifacts(house.get_by_id(job_id))}
    assert len(published) == JOBS * 4
    assert house.stored_files() == published
