"""A model to quantize and to finetune in one request: two jobs, of which one waits."""

from typing import Any

import pytest

from jobs import maintenance
from tests.integration.api.support import Service
from tests.integration.api.test_finetune import (
    FILES,
    NOWHERE_DATASET,
    NOWHERE_JOB,
    WITHOUT_ADAPTER,
    WORDS,
    post,
)

ERROR = {"code": "too_big", "message": "too big", "fault": "infra", "retryable": True}


@pytest.fixture
def dataset(service: Service) -> str:
    return str(service.upload(WORDS)["id"])


def chain(service: Service, dataset: str, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The quantize job and the finetune job of one request."""
    answer = post(service, **({"base": "tiny", "bits": 2, "dataset": dataset} | fields))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    return show(service, job["waits_for"]), job


def show(service: Service, job_id: str) -> dict[str, Any]:
    return dict(service.http.get(f"/jobs/{job_id}").json())


def events(service: Service, job: dict[str, Any]) -> list[str]:
    return [e["type"] for e in service.http.get(job["urls"]["events"]).json()["events"]]


def test_one_request_makes_two_jobs(service: Service, dataset: str) -> None:
    shared = {
        "labels": {"team": "search"},
        "metadata": {"n": 1},
        "priority": 5,
        "device_class": "cpu",
        "max_pending_s": 1000,
        "max_runtime_s": 2000,
    }
    options = {"method": "loftq", "rank": 4, "calibration": {"samples": 3}}
    base, job = chain(service, dataset, quantize=options, epochs=3, **shared)
    assert (base["type"], base["state"], base["waits_for"]) == ("quantize", "queued", None)
    assert (job["type"], job["state"], job["made_for"]) == ("finetune", "queued", None)
    assert (base["made_for"], job["input"]["base"]) == (job["id"], base["id"])
    asked = base["input"]
    assert (asked["bits"], asked["method"], asked["rank"]) == (2, "loftq", 4)
    assert (asked["calibration"]["samples"], asked["context_length"]) == (3, 512)
    assert asked["revision"].startswith("local:") and job["input"]["revision"] is None
    assert (job["input"]["model"], job["input"]["epochs"]) == ("tiny", 3)
    assert not {"bits", "quantize", "base_manifest_sha256"} & job["input"].keys()
    for name, value in shared.items():
        assert base[name] == job[name] == value
    assert [found["id"] for found in service.http.get("/jobs").json()["jobs"]] == [
        job["id"],
        base["id"],
    ]


def test_it_is_free_once_its_base_has_succeeded(service: Service, dataset: str) -> None:
    base, job = chain(service, dataset)
    claimed = service.claim()
    assert claimed.id == base["id"]
    service.publish(claimed, FILES)
    released = show(service, job["id"])
    manifest = next(
        file["sha256"]
        for file in service.http.get(base["urls"]["artifacts"]).json()["artifacts"]
        if file["path"] == "manifest.json"
    )
    assert released["waits_for"] is None
    assert released["input"] == job["input"] | {"base_manifest_sha256": manifest}
    assert events(service, job) == ["accepted", "released"]
    service.refused(service.http.delete(base["urls"]["self"]), 409, "job_in_use")
    assert service.claim().id == job["id"]


def test_it_fails_with_its_base(service: Service, dataset: str) -> None:
    base, job = chain(service, dataset)
    service.fail(service.claim(), ERROR)
    failed = show(service, job["id"])
    assert (failed["state"], failed["waits_for"], failed["attempt"]) == ("failed", None, 0)
    assert failed["error"] == {
        "code": "base_failed",
        "message": f"{base['id']}, which this job was to train on, has failed, too_big: too big",
        "param": "base",
        "fault": "infra",
        "retryable": True,
        "base": base["id"],
        "base_code": "too_big",
    }


def test_it_fails_when_its_base_is_cancelled(service: Service, dataset: str) -> None:
    base, job = chain(service, dataset)
    assert service.http.post(base["urls"]["cancel"]).json()["state"] == "cancelled"
    error = show(service, job["id"])["error"]
    assert (error["code"], error["base_code"], error["fault"]) == (
        "base_failed",
        "cancelled",
        "user",
    )


@pytest.mark.parametrize("runs", [False, True])
def test_to_cancel_it_cancels_what_was_made_for_it(
    service: Service, dataset: str, runs: bool
) -> None:
    base, job = chain(service, dataset)
    if runs:
        service.claim()
    assert service.http.post(job["urls"]["cancel"]).json()["state"] == "cancelled"
    assert show(service, base["id"])["state"] == ("cancelling" if runs else "cancelled")


def test_what_others_wait_for_goes_on(service: Service, dataset: str) -> None:
    base, first = chain(service, dataset)
    second = post(service, base=base["id"], dataset=dataset).json()
    assert second["waits_for"] == base["id"]
    service.http.post(first["urls"]["cancel"])
    assert show(service, base["id"])["state"] == "queued"
    service.http.post(second["urls"]["cancel"])  # it was not made for this one
    assert show(service, base["id"])["state"] == "queued"
    third = service.http.post(first["urls"]["retry"]).json()  # there is a base to wait for
    assert (third["waits_for"], third["retry_of"]) == (base["id"], first["id"])
    service.publish(service.claim(), FILES)
    assert service.claim().id == third["id"]


def test_a_job_that_was_asked_for_is_not_cancelled_with_who_waits(
    service: Service, dataset: str
) -> None:
    base = service.submit()
    job = post(service, base=base["id"], dataset=dataset).json()
    assert (job["waits_for"], show(service, base["id"])["made_for"]) == (base["id"], None)
    service.http.post(job["urls"]["cancel"])
    assert show(service, base["id"])["state"] == "queued"


def test_once_it_is_free_its_cancel_is_its_own(service: Service, dataset: str) -> None:
    base, job = chain(service, dataset)
    service.publish(service.claim(), FILES)
    service.http.post(job["urls"]["cancel"])
    assert show(service, base["id"])["state"] == "succeeded"
    again = service.http.post(job["urls"]["retry"]).json()
    assert (again["waits_for"], again["input"]["base"]) == (None, base["id"])


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_retry_repeats_both(service: Service, dataset: str, how: str) -> None:
    base, job = chain(service, dataset, quantize={"rank": 2}, labels={"a": "b"})
    if how == "failed":
        service.fail(service.claim(), ERROR)
    else:
        service.http.post(job["urls"]["cancel"])
    again = service.http.post(job["urls"]["retry"]).json()
    base_again = show(service, again["waits_for"])
    assert (again["retry_of"], base_again["retry_of"]) == (job["id"], base["id"])
    assert base_again["made_for"] == again["id"]
    assert base_again["input"] == base["input"]
    assert again["input"] == job["input"] | {"base": base_again["id"]}
    assert again["labels"] == base_again["labels"] == {"a": "b"}
    service.publish(service.claim(), FILES)
    assert service.claim().id == again["id"]


def test_a_retry_while_its_base_still_stops(service: Service, dataset: str) -> None:
    base, job = chain(service, dataset)
    service.claim()
    service.http.post(job["urls"]["cancel"])
    assert show(service, base["id"])["state"] == "cancelling"
    again = service.http.post(job["urls"]["retry"]).json()
    assert show(service, again["waits_for"])["retry_of"] == base["id"]


def test_the_same_request_makes_one_chain(service: Service, dataset: str) -> None:
    body = {"type": "finetune", "base": "tiny", "bits": 2, "dataset": dataset}
    headers = {"idempotency-key": "once"}
    first, second = (service.http.post("/jobs", json=body, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert len(service.http.get("/jobs").json()["jobs"]) == 2
    other = service.http.post("/jobs", json=body | {"bits": 3}, headers=headers)
    service.refused(other, 409, "idempotency_key_reused")


def test_waiting_for_a_base_is_not_waiting_for_a_worker(service: Service, dataset: str) -> None:
    _, job = chain(service, dataset, max_pending_s=100)
    claimed = service.claim()

    def later(seconds: int) -> None:
        with service.context.database.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE jobs SET expires_at = expires_at - {seconds * 1000}"
            )
            maintenance.expire_waiting(connection)

    later(1000)
    assert show(service, job["id"])["state"] == "queued"
    service.publish(claimed, FILES)
    later(90)
    assert show(service, job["id"])["state"] == "queued"
    later(20)
    assert show(service, job["id"])["error"]["code"] == "max_pending_exceeded"


def test_a_base_that_nobody_takes_up_ends_both(service: Service, dataset: str) -> None:
    base, job = chain(service, dataset, max_pending_s=100)
    with service.context.database.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET expires_at = expires_at - 200000")
        maintenance.expire_waiting(connection)
    assert show(service, base["id"])["error"]["code"] == "max_pending_exceeded"
    assert show(service, job["id"])["error"]["base_code"] == "max_pending_exceeded"


@pytest.mark.parametrize(
    ("fields", "code", "pointer", "says"),
    [
        ({"bits": 5}, "invalid_request", "#/bits", "bits is 5; legal: 2, 3, 4 or 8"),
        ({"base": NOWHERE_JOB}, "invalid_request", "#/bits", "base is a job"),
        ({"bits_per_weight": 3}, "invalid_request", "#/bits_per_weight", "bits is given too, 2"),
        ({"bits": None, "bits_per_weight": 9}, "invalid_request", "#/bits_per_weight", "at most 8"),
        (
            {"bits": None, "quantize": {}},
            "invalid_request",
            "#/quantize",
            "legal only with bits or bits_per_weight",
        ),
        ({"quantize": 3}, "invalid_request", "#/quantize", "legal: a JSON object"),
        ({"quantize": {"bits": 2}}, "invalid_request", "#/quantize/bits", "is not a field"),
        ({"quantize": {"model": "m"}}, "invalid_request", "#/quantize/model", "is not a field"),
        (
            {"quantize": {"metod": "rtn"}},
            "invalid_request",
            "#/quantize/metod",
            "did you mean `method`?",
        ),
        (
            {"quantize": {"calibration": {"sampels": 1}}},
            "invalid_request",
            "#/quantize/calibration/sampels",
            "did you mean `samples`?",
        ),
        ({"quantize": {"rank": 999}}, "invalid_request", "#/quantize/rank", "at most 512"),
        (
            {"bits": None, "bits_per_weight": 3, "quantize": {"rank": 8}},
            "invalid_request",
            "#/quantize/rank",
            "leave rank out",
        ),
        (
            {"quantize": {"group_size": 128}},
            "group_size_does_not_divide",
            "#/quantize/group_size",
            "does not divide",
        ),
        (
            {"quantize": {"method": "gptq", "recipe": "fast"}},
            "illegal_recipe",
            "#/quantize/recipe",
            "quantize: method gptq has no recipe 'fast'",
        ),
        (
            {"quantize": {"calibration": {"source": f"dataset:{NOWHERE_DATASET}"}}},
            "unknown_source",
            "#/quantize/calibration/source",
            "there is no dataset",
        ),
        ({"bits": 8, "quantize": {"method": "qlora"}}, "illegal_bits", "#/bits", "no normal float"),
        ({"base": "nowhere", "revision": "local:0"}, "model_not_found", "#/base", "no model"),
        ({"revision": "local:0"}, "model_changed", "#/revision", "is now local:"),
        ({"dataset": NOWHERE_DATASET}, "unknown_dataset", "#/dataset", "there is no dataset"),
        ({"rank": 8}, "illegal_rank", "#/rank", "the base has an adapter, of method apiq-bw"),
        ({"adapter": "dora"}, "illegal_adapter", "#/adapter", "the base has an adapter"),
        ({"rank": 8, "quantize": {"method": "qlora"}}, "illegal_rank", "#/rank", "qlora"),
        (
            {"rank": 8, "quantize": {"adapter": "ia3"}},
            "illegal_rank",
            "#/rank",
            "the base has an adapter",
        ),
        ({"rank": 65, "quantize": {"method": "rtn"}}, "rank_too_large", "#/rank", "rank is 65"),
        ({"max_length": 513}, "length_exceeds_context", "#/max_length", "512"),
        *(
            (
                {"method": "qa-lora", "quantize": options},
                "invalid_request",
                "#/quantize",
                "method qa-lora needs a base without adapter; legal: rank 0, adapter lora",
            )
            for options in ({"rank": 8}, {"adapter": "ia3"}, {"method": "loftq"})
        ),
        (
            {"method": "qa-lora", "bits": None, "bits_per_weight": 3},
            "invalid_request",
            "#/bits_per_weight",
            "method qa-lora needs a base without adapter; legal: bits",
        ),
    ],
)
def test_bad_fields(
    service: Service, dataset: str, fields: dict[str, Any], code: str, pointer: str, says: str
) -> None:
    answer = post(service, **({"base": "tiny", "bits": 2, "dataset": dataset} | fields))
    problem = service.refused(answer, 422, code)
    assert problem["errors"][0]["pointer"] == pointer
    assert says in problem["detail"]
    assert service.http.get("/jobs").json()["jobs"] == []


def test_without_an_adapter_there_is_a_rank(service: Service, dataset: str) -> None:
    base, job = chain(service, dataset, rank=8, quantize={"method": "rtn"})
    assert (base["input"]["rank"], job["input"]["rank"]) == (0, 8)


@pytest.mark.parametrize("options", [{}, {"quantize": {"rank": 0, "group_size": 32}}])
def test_for_qa_lora_no_adapter_is_fitted(
    service: Service, dataset: str, options: dict[str, Any]
) -> None:
    base, job = chain(service, dataset, method="qa-lora", **options)
    assert (base["input"]["rank"], job["input"]["method"]) == (0, "qa-lora")


@pytest.mark.parametrize("succeeded", [False, True])
def test_a_base_that_is_a_job_is_checked_too(
    service: Service, dataset: str, succeeded: bool
) -> None:
    base = service.finished(FILES) if succeeded else service.submit()
    plain = service.finished(WITHOUT_ADAPTER, rank=0) if succeeded else service.submit(rank=0)
    for job, fields, code in (
        (base, {"max_length": 513}, "length_exceeds_context"),
        (base, {"rank": 8}, "illegal_rank"),
        (base, {"adapter": "lora"}, "illegal_adapter"),
        (plain, {"rank": 65}, "rank_too_large"),
    ):
        service.refused(post(service, base=job["id"], dataset=dataset, **fields), 422, code)


def test_a_budget_may_have_left_no_room_for_an_adapter(service: Service, dataset: str) -> None:
    budget = {"bits": None, "bits_per_weight": 3}
    queued = service.submit(**budget)["id"]  # nobody knows yet
    service.refused(post(service, base=queued, dataset=dataset, rank=8), 422, "illegal_rank")
    service.http.post(f"/jobs/{queued}/cancel")
    for files, status in ((FILES, 422), (WITHOUT_ADAPTER, 202)):
        base = service.finished(files, **budget)["id"]
        for fields in ({"rank": 8}, {"method": "qa-lora"}):
            answer = post(service, base=base, dataset=dataset, **fields)
            assert answer.status_code == status, answer.text
            if status == 202:
                service.http.post(answer.json()["urls"]["cancel"])
