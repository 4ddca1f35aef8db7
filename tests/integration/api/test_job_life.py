"""Wait for a job, and try it again."""

import threading
import time

import pytest

from tests.integration.api.support import Service

ERROR = {"code": "no_luck", "message": "it broke", "fault": "infra", "retryable": True}


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

    def test_what_it_was_lost_to_is_shown_until_it_runs_again(self, service: Service) -> None:
        url = service.submit()["urls"]["self"]
        lost = service.claim()
        assert service.http.get(url).json()["last_loss"] is None
        service.lose(lost, ERROR)
        job = service.http.get(url).json()
        assert job["state"] == "queued"
        assert {name: job["last_loss"][name] for name in ERROR} == ERROR
        assert (job["last_loss"]["block"], job["last_loss"]["losses"]) == (0, 1)
        assert job["last_loss"]["pause_seconds"] >= 0

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
