"""A request that is sent twice makes one job."""

from typing import Any

import httpx2
import pytest

from tests.integration.api.keyed import BODY, THREADS, Keyed, at_once
from tests.integration.api.support import Service


class TestIdempotency:
    def submit(self, service: Service, key: str, **fields: Any) -> httpx2.Response:
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
        headers = {b"idempotency-key": key.encode()}
        answer = service.http.post("/jobs", json=BODY, headers=headers)
        problem = service.refused(answer, 422, "invalid_request")
        assert problem["errors"][0]["pointer"].lower() == "idempotency-key:"
        assert "idempotency-key is '" in problem["detail"]
        assert "^" not in problem["detail"]  # a pattern says it to programs only
