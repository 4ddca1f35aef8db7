"""How much an owner may have."""

import threading

from jobs import leases, quotas
from jobs.job import Job
from jobs.settings import Settings
from tests.integration.api.keyed import THREADS, Keyed, at_once
from tests.integration.api.support import Service


class TestQuotas:
    def test_queued_jobs(self, service: Service) -> None:
        keyed = Keyed(service, max_queued_jobs_per_owner=3)
        answers = at_once(lambda: keyed.submit("ada"))
        assert sorted(x.status_code for x in answers) == [202] * 3 + [429] * (THREADS - 3)
        refused = next(answer for answer in answers if answer.status_code == 429)
        problem = service.refused(refused, 429, "quota_exceeded")
        assert "3 jobs of ada" in problem["detail"] and "at most 3" in problem["detail"]
        assert problem["retryable"]
        assert keyed.submit("bob").status_code == 202
        service.claim()  # one of ada's runs: there is room again
        assert keyed.submit("ada").status_code == 202
        assert keyed.submit("ada").status_code == 429

    def test_running_jobs(self, service: Service) -> None:
        keyed = Keyed(service)
        for _ in range(THREADS):
            keyed.submit("ada")
        keyed.submit("bob")
        claimed: list[Job | None] = []
        start = threading.Barrier(THREADS)

        def claim() -> Job | None:
            with service.context.database.begin() as connection:
                return leases.claim(
                    connection,
                    worker_id="w",
                    device_class="cpu",
                    lease_ttl_s=60,
                    max_running_jobs=2,
                )

        def work() -> None:
            start.wait()
            claimed.append(claim())

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        owners = sorted(job.owner for job in claimed if job is not None)
        assert owners == ["ada", "ada", "bob"]
        first = next(job for job in claimed if job is not None and job.owner == "ada")
        service.publish(first, {})
        assert (next_job := claim()) is not None and next_job.owner == "ada"
        assert claim() is None

    def test_bytes_of_datasets(self, service: Service) -> None:
        keyed = Keyed(service, max_dataset_bytes_per_owner=2500)
        answers = at_once(lambda: keyed.upload("ada", b"x" * 1000))
        assert sorted(x.status_code for x in answers) == [201] * 2 + [429] * (THREADS - 2)
        refused = keyed.upload("ada", b"x" * 1000)
        problem = service.refused(refused, 429, "quota_exceeded")
        assert "2000 bytes, with this one 3000; legal: at most 2500" in problem["detail"]
        assert keyed.upload("bob", b"x" * 1000).status_code == 201
        made = next(answer for answer in answers if answer.status_code == 201)
        service.http.delete(made.headers["location"], headers=keyed.headers["ada"])
        assert keyed.upload("ada", b"x" * 1500).status_code == 201

    def test_without_keys_there_are_none(self, service: Service, settings: Settings) -> None:
        limited = settings.model_copy(
            update={"max_queued_jobs_per_owner": 1, "max_dataset_bytes_per_owner": 1}
        )
        service.submit()
        with service.context.database.begin() as connection:
            quotas.check_queue(connection, "", 1, limited)
            quotas.check_upload(connection, "", 10, limited)
