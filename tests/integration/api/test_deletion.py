"""What is deleted is gone at once, and its files soon after."""

from pathlib import Path
from typing import Any

import pytest

from jobs import leases
from jobs.artifacts import ArtifactStore, files_prefix, log_key
from jobs.errors import ObjectNotFound
from tests.integration.api.keyed import TEXT, Keyed
from tests.integration.api.support import Service
from worker.context import Worker
from worker.sweeper import sweep


def is_stored(store: ArtifactStore, key: str) -> bool:
    try:
        return store.size(key) > 0
    except ObjectNotFound:
        return False


class Crash(Exception):
    pass


class TestDelete:
    def sweep(self, service: Service, **changes: Any) -> None:
        context = service.context
        settings = context.settings.model_copy(update=changes)
        sweep(Worker(settings, context.database, context.store, [], worker_id="sweeper"))

    def count_rows(self, service: Service, job_id: str) -> int:
        query = "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM job_events)"
        query += " + (SELECT count(*) FROM artifacts)"
        with service.context.database.read() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())

    def done(self, service: Service) -> tuple[dict[str, Any], list[str]]:
        """An ended job and the keys of its objects."""
        job = service.submit()
        claimed = service.claim()
        service.put_log(claimed, b"hello")
        service.publish(claimed, {"report.json": b"{}"})
        report = f"{files_prefix(job['id'], 1)}/report.json"
        return job, [report, log_key(job["id"], 1)]

    def test_only_what_has_ended(self, service: Service) -> None:
        job = service.submit()
        url = job["urls"]["self"]
        service.refused(service.http.delete(url), 409, "job_not_finished")
        claimed = service.claim()
        service.refused(service.http.delete(url), 409, "job_not_finished")
        service.http.post(job["urls"]["cancel"])
        service.refused(service.http.delete(url), 409, "job_not_finished")
        with service.context.database.begin() as connection:
            leases.cancelled(connection, claimed.id, claimed.attempt)
        assert service.http.delete(url).status_code == 204

    def test_it_is_gone_at_once_and_then_all_of_it(self, service: Service) -> None:
        job, objects = self.done(service)
        url = job["urls"]["self"]
        assert service.http.delete(url).status_code == 204
        for path in ("", "/events", "/logs", "/artifacts", "/artifacts.tar"):
            service.refused(service.http.get(url + path), 404, "job_not_found")
        for answer in (service.http.delete(url), service.http.post(job["urls"]["retry"])):
            service.refused(answer, 404, "job_not_found")
        assert service.http.get("/jobs").json()["jobs"] == []
        assert all(is_stored(service.context.store, key) for key in objects)
        self.sweep(service)
        assert not any(is_stored(service.context.store, key) for key in objects)
        assert self.count_rows(service, job["id"]) == 0

    def test_a_crash_between_objects_and_row(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job, objects = self.done(service)
        service.http.delete(job["urls"]["self"])

        def crash(*_: object) -> None:
            raise Crash

        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr("jobs.maintenance.forget_job", crash)
            self.sweep(service)
        assert not any(is_stored(service.context.store, key) for key in objects)
        assert self.count_rows(service, job["id"]) > 0
        self.sweep(service)
        assert self.count_rows(service, job["id"]) == 0

    def test_retention_is_by_age_of_the_end(self, service: Service) -> None:
        old, objects = self.done(service)
        new, kept = self.done(service)
        waiting = service.submit()
        self.sweep(service)
        day_ms = 24 * 3600 * 1000
        with service.context.database.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE jobs SET finished_at = finished_at - {3 * day_ms} WHERE id = '{old['id']}'"
            )
            connection.exec_driver_sql(f"UPDATE jobs SET created_at = created_at - {9 * day_ms}")
        self.sweep(service)  # the default: never
        assert service.http.get(old["urls"]["self"]).status_code == 200
        self.sweep(service, retention_days=2.5)
        service.refused(service.http.get(old["urls"]["self"]), 404, "job_not_found")
        assert not any(is_stored(service.context.store, key) for key in objects)
        assert all(is_stored(service.context.store, key) for key in kept)
        left = {job["id"] for job in service.http.get("/jobs").json()["jobs"]}
        assert left == {new["id"], waiting["id"]}


class TestUnconfirmedUploads:
    def hidden(self, service: Service) -> None:
        assert service.http.get("/datasets").json()["datasets"] == []

    def count(self, service: Service) -> int:
        with service.context.database.read() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM datasets").scalar_one())

    def test_a_crash_before_the_confirmation(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored: list[str] = []
        put_file = type(service.context.store).put_file

        def crash(*_: object) -> None:
            raise Crash

        def put(store: Any, key: str, path: Path) -> Any:
            stored.append(key)
            return put_file(store, key, path)

        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(type(service.context.store), "put_file", put)
            patch.setattr("jobs.datasets.confirm", crash)
            service.http.post("/datasets", content=b"text", headers=TEXT)
        (key,) = stored
        assert is_stored(service.context.store, key)
        self.hidden(service)
        TestDelete().sweep(service)
        assert self.count(service) == 1  # it may still be on its way
        day_ms = 24 * 3600 * 1000
        with service.context.database.begin() as connection:
            connection.exec_driver_sql(f"UPDATE datasets SET deleted_at = deleted_at - {day_ms}")
        TestDelete().sweep(service)
        assert not is_stored(service.context.store, key)
        assert self.count(service) == 0

    def test_a_store_that_fails_takes_nothing_from_the_quota(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keyed = Keyed(service, max_dataset_bytes_per_owner=10)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(type(service.context.store), "put_file", full)
            service.refused(keyed.upload("ada", b"x" * 10), 503, "disk_full")
        assert keyed.upload("ada", b"x" * 10).status_code == 201
