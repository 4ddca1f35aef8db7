"""Submit once, repeat, wait, delete, and how much of it an owner may have."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from jobs import keys, leases, quotas
from jobs.artifacts import ArtifactStore, files_prefix, log_key
from jobs.errors import ObjectNotFound
from jobs.job import Job
from jobs.keys import DEFAULT_SCOPES
from jobs.settings import Settings
from tests.integration.api.support import Service
from worker.context import Worker
from worker.sweeper import sweep

SECRET_KEY = "a secret of the server, 32 or more"
THREADS = 8
BODY = {"model": "tiny", "bits": 2}
ERROR = {"code": "no_luck", "message": "it broke", "fault": "infra", "retryable": True}
TEXT = {"content-type": "text/plain"}


def at_once(call: Callable[[], httpx.Response]) -> list[httpx.Response]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(THREADS)]]


def is_stored(store: ArtifactStore, key: str) -> bool:
    try:
        return store.size(key) > 0
    except ObjectNotFound:
        return False


class Keyed:
    """The service with API keys; `ada` and `bob` call it."""

    def __init__(self, service: Service, **changes: Any) -> None:
        self.service = service
        context = service.context
        settings = context.settings.model_copy(
            update={"secret_key": SecretStr(SECRET_KEY)} | changes
        )
        service.app.state.context = type(context)(settings, context.database, context.store)
        self.headers = {}
        with context.database.begin() as connection:
            for owner in ("ada", "bob"):
                _, text = keys.create(
                    connection, name="test", owner=owner, scopes=DEFAULT_SCOPES, settings=settings
                )
                self.headers[owner] = {"authorization": f"Bearer {text}"}

    def submit(self, owner: str, key: str | None = None, **fields: Any) -> httpx.Response:
        headers = self.headers[owner] | ({"idempotency-key": key} if key else {})
        return self.service.http.post("/jobs", json=BODY | fields, headers=headers)

    def upload(self, owner: str, content: bytes) -> httpx.Response:
        headers = self.headers[owner] | TEXT
        return self.service.http.post("/datasets", content=content, headers=headers)


class TestIdempotency:
    def submit(self, service: Service, key: str, **fields: Any) -> httpx.Response:
        return service.http.post("/jobs", json=BODY | fields, headers={"idempotency-key": key})

    def test_the_same_key_and_body_make_one_job(self, service: Service) -> None:
        first = self.submit(service, "k1", labels={"a": "b"})
        again = self.submit(service, "k1", labels={"a": "b"}, group_size=None)  # a default, said
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        assert self.submit(service, "k2").json()["id"] != first.json()["id"]
        assert len(service.http.get("/jobs").json()["jobs"]) == 2

    def test_at_the_same_moment_too(self, service: Service) -> None:
        answers = at_once(lambda: self.submit(service, "k1"))
        assert [answer.status_code for answer in answers] == [202] * THREADS
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(service.http.get("/jobs").json()["jobs"]) == 1

    def test_at_the_same_moment_with_room_for_one(self, service: Service) -> None:
        keyed = Keyed(service, max_queued_jobs_per_owner=1)
        answers = at_once(lambda: keyed.submit("ada", "k1"))
        assert {answer.status_code for answer in answers} == {202}, [x.text for x in answers]
        assert len({answer.json()["id"] for answer in answers}) == 1

    def test_another_body_is_refused(self, service: Service) -> None:
        job = self.submit(service, "k1").json()
        problem = service.refused(
            self.submit(service, "k1", labels={"a": "b"}), 409, "idempotency_key_reused"
        )
        assert job["id"] in problem["detail"] and "k1" in problem["detail"]

    def test_owners_do_not_share_keys(self, service: Service) -> None:
        keyed = Keyed(service)
        ids = {keyed.submit(owner, "k1").json()["id"] for owner in ("ada", "bob")}
        assert len(ids) == 2

    def test_it_is_free_again_once_the_job_is_deleted(self, service: Service) -> None:
        job = self.submit(service, "k1").json()
        service.http.post(job["urls"]["cancel"])
        assert self.submit(service, "k1").json()["id"] == job["id"]  # ended, but there
        service.http.delete(job["urls"]["self"])
        again = self.submit(service, "k1", labels={"any": "body"}).json()
        assert again["id"] != job["id"]

    @pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 256, "a\x7f"])
    def test_illegal_keys(self, service: Service, key: str) -> None:
        headers = {"idempotency-key": key.encode()}
        answer = service.http.post("/jobs", json=BODY, headers=headers)
        problem = service.refused(answer, 422, "invalid_request")
        assert problem["errors"][0]["pointer"].lower() == "idempotency-key:"


class TestRetry:
    def test_a_failed_and_a_cancelled_job(self, service: Service) -> None:
        wanted = {"labels": {"a": "b"}, "metadata": {"m": [1]}, "priority": 7}
        wanted |= {"device_class": "cpu", "max_pending_s": 500, "max_runtime_s": 600}
        failed = service.submit(calibration={"samples": 9}, **wanted)
        service.fail(service.claim(), ERROR)
        cancelled = service.submit(calibration={"samples": 9}, **wanted)
        service.http.post(cancelled["urls"]["cancel"])
        for old in (failed, cancelled):
            answer = service.http.post(old["urls"]["retry"])
            assert answer.status_code == 202
            job = answer.json()
            assert answer.headers["location"] == job["urls"]["self"]
            assert (job["state"], job["retry_of"]) == ("queued", old["id"])
            assert {name: job[name] for name in wanted} == wanted
            assert job["input"] == old["input"]
            (event,) = service.http.get(job["urls"]["events"]).json()["events"]
            assert event["data"] == {"retry_of": old["id"]}
            assert service.http.get(old["urls"]["self"]).json()["retry_of"] is None

    def test_nothing_to_repeat(self, service: Service) -> None:
        job = service.submit()
        retry = job["urls"]["retry"]
        service.refused(service.http.post(retry), 409, "job_not_retryable")
        claimed = service.claim()
        problem = service.refused(service.http.post(retry), 409, "job_not_retryable")
        assert "running; legal: failed or cancelled" in problem["detail"]
        service.publish(claimed, {})
        service.refused(service.http.post(retry), 409, "job_not_retryable")

    def test_a_dataset_that_is_gone(self, service: Service) -> None:
        dataset = service.upload(b"word " * 19_000)
        job = service.submit(evaluation={"source": f"dataset:{dataset['id']}", "samples": 2})
        service.http.post(job["urls"]["cancel"])
        service.http.delete(f"/datasets/{dataset['id']}")
        service.refused(service.http.post(job["urls"]["retry"]), 422, "unknown_source")


class TestWait:
    def test_returns_early_on_a_change(self, service: Service) -> None:
        job = service.submit()
        timer = threading.Timer(0.3, service.claim)
        timer.start()
        began = time.monotonic()
        # `after`: on a busy machine the claim may come before the first look at the job
        query = {"wait": 30, "after": job["event_seq"]}
        changed = service.http.get(job["urls"]["self"], params=query).json()
        assert changed["state"] == "running"
        assert 0.2 < time.monotonic() - began < 15
        timer.join()

    def test_returns_late_on_none(self, service: Service) -> None:
        job = service.submit()
        began = time.monotonic()
        assert service.http.get(job["urls"]["self"], params={"wait": 1}).json() == job
        assert time.monotonic() - began >= 1

    def test_a_change_that_was_missed_is_told_at_once(self, service: Service) -> None:
        job = service.submit()
        service.claim()
        began = time.monotonic()
        query = {"wait": 30, "after": job["event_seq"]}
        changed = service.http.get(job["urls"]["self"], params=query).json()
        assert (changed["state"], changed["event_seq"]) == ("running", 2)
        assert time.monotonic() - began < 15

    def test_an_ended_job_never_changes(self, service: Service) -> None:
        job = service.finished({})
        began = time.monotonic()
        query = {"wait": 30, "after": job["event_seq"]}
        assert service.http.get(job["urls"]["self"], params=query).json() == job
        assert time.monotonic() - began < 15

    @pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon"])
    def test_illegal_waits(self, service: Service, wait: str) -> None:
        job = service.submit()
        answer = service.http.get(job["urls"]["self"], params={"wait": wait})
        problem = service.refused(answer, 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "?wait"


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
