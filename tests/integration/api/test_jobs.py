"""Submit, show, list, cancel: the records behind them are real."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs import hub as hub_module
from jobs.settings import Settings
from tests.integration.api.hub_server import Hub
from tests.integration.api.support import Service, drop_the_tables, place_model

NO_JOB = "job_00000000-0000-7000-8000-000000000000"


class TestSubmit:
    def test_model_and_bits_suffice_and_input_shows_the_rest(self, service: Service) -> None:
        answer = service.http.post("/jobs", json={"model": "tiny", "bits": 2})
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/jobs/{job['id']}" == job["urls"]["self"]
        assert (job["state"], job["attempt"], job["phase"]) == ("queued", 0, None)
        resolved = job["input"]
        assert resolved["revision"].startswith("local:")
        assert (resolved["group_size"], resolved["recipe"]) == (64, "fast")
        assert resolved["rank"] >= 1
        assert resolved["calibration"]["source"] == resolved["evaluation"]["source"] == "builtin"
        assert None not in resolved["training"].values()
        assert [name for name, value in resolved.items() if value is None] == ["bits_per_weight"]
        assert service.http.get(job["urls"]["self"]).json() == job

    def test_a_budget_in_place_of_bits(self, service: Service) -> None:
        body = {"model": "tiny", "bits_per_weight": 3, "method": "apiq-lw"}
        answer = service.http.post("/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        resolved = job["input"]
        assert (resolved["bits"], resolved["bits_per_weight"], resolved["rank"]) == (None, 3, None)
        # what was resolved can be asked for again, as a retry does
        assert service.http.post(f"{job['urls']['self']}/cancel").status_code == 202
        again = service.http.post(f"{job['urls']['self']}/retry")
        assert again.status_code == 202, again.text
        assert again.json()["input"] == resolved

    def test_wikitext2_if_the_hub_has_it(self, service: Service, hub: Hub) -> None:
        (hub.root / "datasets/ggml-org/ci").mkdir(parents=True)
        for _ in range(3):
            job = service.submit()
            assert job["input"]["calibration"]["source"] == "wikitext2"
            assert job["input"]["evaluation"]["source"] == "wikitext2"
        assert len(hub.requests) == 1  # the hub is asked once a minute

    def test_evaluation_on_another_text(self, service: Service) -> None:
        dataset = service.upload(b"some text " * 2000)
        job = service.submit(evaluation={"source": f"dataset:{dataset['id']}", "samples": 2})
        assert job["input"]["evaluation"]["source"] == f"dataset:{dataset['id']}"
        assert job["input"]["calibration"]["source"] == "builtin"

    def test_a_model_of_the_hub_is_pinned(
        self, service: Service, hub: Hub, tiny_model: Path
    ) -> None:
        place_model(hub.root / "models", tiny_model, "org/remote")
        job = service.submit(model="org/remote")
        assert job["input"]["revision"] == hub.commit

    def test_labels_and_metadata_are_kept(self, service: Service) -> None:
        job = service.submit(labels={"team": "search"}, metadata={"a": [1, {"ü": None}]})
        job = service.http.get(f"/jobs/{job['id']}").json()
        assert job["labels"] == {"team": "search"}
        assert job["metadata"] == {"a": [1, {"ü": None}]}
        assert "labels" not in job["input"]

    def test_the_first_event_is_there_at_once(self, service: Service) -> None:
        job = service.submit()
        (event,) = service.http.get(job["urls"]["events"]).json()["events"]
        assert (event["seq"], event["type"]) == (1, "accepted")

    def test_a_refused_request_leaves_no_job(self, service: Service) -> None:
        assert (
            service.http.post("/jobs", json={"model": "none", "bits": 2}).status_code == 503
        )  # no hub
        source = f"dataset:ds_{'0' * 32}"
        body = {"model": "tiny", "bits": 2, "calibration": {"source": source}}
        assert service.http.post("/jobs", json=body).status_code == 422
        assert service.http.get("/jobs").json() == {"jobs": [], "next": None}


class TestList:
    def test_newest_first_in_pages(self, service: Service) -> None:
        made = [service.submit()["id"] for _ in range(5)][::-1]
        seen: list[str] = []
        query: dict[str, str | int] = {"limit": 2}
        while True:
            page = service.http.get("/jobs", params=query).json()
            seen += [job["id"] for job in page["jobs"]]
            if page["next"] is None:
                break
            query["after"] = page["next"]
        assert seen == made

    def test_filters(self, service: Service, tiny_model: Path, settings: Settings) -> None:
        place_model(settings.models_dir, tiny_model, "org/other")
        one = service.submit(labels={"team": "a", "run": "1"})["id"]
        two = service.submit(labels={"team": "b"})["id"]
        other = service.submit(model="org/other")["id"]
        service.http.post(f"/jobs/{two}/cancel")

        def listed(**query: str) -> list[str]:
            return [job["id"] for job in service.http.get("/jobs", params=query).json()["jobs"]]

        assert listed(**{"label.team": "a"}) == [one]
        assert listed(**{"label.team": "a", "label.run": "2"}) == []
        assert listed(state="cancelled") == [two]
        assert listed(state="queued") == [other, one]
        assert listed(model="org/other") == [other]
        assert listed(type="quantize") == [other, two, one]
        assert listed(type="finetune") == []

    @pytest.mark.parametrize(
        ("query", "pointer", "detail"),
        [
            ({"stat": "queued"}, "?stat", "did you mean `state`?"),
            ({"state": "waiting"}, "?state", "state is 'waiting'; legal: 'queued', 'running'"),
            ({"limit": "0"}, "?limit", "legal: at least 1"),
            ({"limit": "ten"}, "?limit", "legal: a whole number"),
            ({"after": "garbage"}, "?after", "garbage"),
        ],
    )
    def test_bad_queries(
        self, service: Service, query: dict[str, str], pointer: str, detail: str
    ) -> None:
        problem = service.refused(service.http.get("/jobs", params=query), 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
        assert detail in problem["detail"]


class TestAtOnce:
    """Requests of one moment share a query or a commit; each gets what is its own."""

    def test_shown_at_once(self, service: Service) -> None:
        made = [service.submit(labels={"n": str(n)}) for n in range(5)]
        wanted = [*(job["id"] for job in made), NO_JOB] * 4
        with ThreadPoolExecutor(len(wanted)) as threads:
            answers = list(threads.map(lambda job_id: service.http.get(f"/jobs/{job_id}"), wanted))
        for job_id, answer in zip(wanted, answers, strict=True):
            if job_id == NO_JOB:
                service.refused(answer, 404, "job_not_found")
            else:
                assert answer.json() in made and answer.json()["id"] == job_id

    def test_submitted_at_once(self, service: Service) -> None:
        source = f"dataset:ds_{'0' * 32}"
        bodies: list[dict[str, Any]] = [
            {"model": "tiny", "bits": 2, "labels": {"n": str(n)}} for n in range(8)
        ]
        bodies += [
            {"model": "none", "bits": 2},
            {"model": "tiny", "bits": 2, "calibration": {"source": source}},
        ]
        with ThreadPoolExecutor(len(bodies)) as threads:
            answers = list(threads.map(lambda body: service.http.post("/jobs", json=body), bodies))
        *good, no_model, no_dataset = answers
        service.refused(no_model, 503, "hub_unreachable")
        service.refused(no_dataset, 422, "unknown_source")
        assert [answer.json()["labels"] for answer in good] == [
            body["labels"] for body in bodies[:8]
        ]
        listed = {job["id"] for job in service.http.get("/jobs").json()["jobs"]}
        assert listed == {answer.json()["id"] for answer in good} and len(listed) == 8

    @pytest.mark.column("embedded")
    def test_a_silent_hub_holds_up_only_who_asks_it(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, go_on = threading.Semaphore(0), threading.Event()

        def silence(repository: str, *, timeout_s: float) -> bool:
            asked.release()
            assert go_on.wait(30)
            return False

        monkeypatch.setattr(hub_module, "dataset_exists", silence)
        with ThreadPoolExecutor(50) as threads:
            waiting = [threads.submit(service.submit, seed=n) for n in range(50)]
            assert asked.acquire(timeout=10)
            job = service.submit(calibration={"source": "builtin"})
            assert [x["id"] for x in service.http.get("/jobs").json()["jobs"]] == [job["id"]]
            go_on.set()
            seeds = [future.result()["input"]["seed"] for future in waiting]
        assert seeds == list(range(50))
        assert not asked.acquire(blocking=False)  # one question for all


class TestCancel:
    def test_a_queued_job_at_once_and_twice_is_no_error(self, service: Service) -> None:
        job = service.submit()
        for _ in range(2):
            answer = service.http.post(job["urls"]["cancel"])
            assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
        assert answer.json()["finished_at"]

    def test_a_running_job_is_asked(self, service: Service) -> None:
        job = service.submit()
        service.claim()
        for _ in range(2):
            assert service.http.post(job["urls"]["cancel"]).json()["state"] == "cancelling"

    def test_a_finished_job_stays_as_it_is(self, service: Service) -> None:
        job = service.finished({"report.json": b"{}"})
        problem = service.refused(
            service.http.post(job["urls"]["cancel"]), 409, "job_already_finished"
        )
        assert job["id"] in problem["detail"]
        assert "succeeded" in problem["detail"]


@pytest.mark.parametrize(
    "path", ["", "/events", "/logs", "/artifacts", "/artifacts.tar", "/artifacts/report.json"]
)
@pytest.mark.parametrize("job_id", [NO_JOB, "job_none", "%00", "..%2f", "job_" + "x" * 3000])
def test_unknown_jobs(service: Service, path: str, job_id: str) -> None:
    answer = service.http.get(f"/jobs/{job_id}{path}")
    if "%2f" not in job_id:  # a slash makes it another path
        service.refused(answer, 404, "job_not_found")
    assert answer.status_code == 404
    assert len(answer.content) < 1000


def test_cancel_of_an_unknown_job(service: Service) -> None:
    service.refused(service.http.post("/jobs/job_none/cancel"), 404, "job_not_found")


def test_a_bug_is_a_problem_too(settings: Settings, service: Service) -> None:
    """The tables are gone: what the client sees says nothing about the inside."""
    drop_the_tables(service)
    client = TestClient(service.app, "http://localhost", raise_server_exceptions=False)
    with client as http:
        problem = service.refused(http.get(f"/jobs/{NO_JOB}"), 500, "internal_error")
    assert "DROP" not in str(problem) and "sql" not in str(problem).lower()
