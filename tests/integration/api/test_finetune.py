"""What a finetune job is accepted on, and what is refused before a worker sees it."""

from typing import Any

import pytest

from tests.integration.api.support import Service, place_model

WORDS = b"Some words to learn. " * 30  # more than a window of them
FILES = {
    "model/config.json": b"{}",
    "adapter/adapter_config.json": b"{}",
    "manifest.json": b'{"files": []}',
}
NOWHERE_JOB = "job_019ab6f2-6c1d-7f04-8a53-c2f1d09e7b44"
NOWHERE_DATASET = "ds_019ab6f2-7a4e-7c31-9d5e-0f3b8a6c2d11"


def post(service: Service, **fields: Any) -> Any:
    return service.http.post("/jobs", json={"type": "finetune"} | fields)


def test_base_and_dataset_suffice(service: Service) -> None:
    base, dataset = service.finished(FILES), service.upload(WORDS)
    answer = post(service, base=base["id"], dataset=dataset["id"])
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["type"], job["state"]) == ("finetune", "queued")
    asked = job["input"]
    assert (asked["base"], asked["dataset"], asked["model"]) == (base["id"], dataset["id"], "tiny")
    assert asked["base_manifest_sha256"] == next(
        file["sha256"]
        for file in service.http.get(base["urls"]["artifacts"]).json()["artifacts"]
        if file["path"] == "manifest.json"
    )
    assert (asked["train"], asked["epochs"], asked["batch_size"]) == ("all", 1, 16)
    assert service.http.get("/jobs", params={"type": "finetune"}).json()["jobs"] == [job]
    assert len(service.http.get("/jobs", params={"model": "tiny"}).json()["jobs"]) == 2
    again = service.http.post(
        "/jobs",
        json={"type": "finetune", "base": "tiny", "dataset": dataset["id"], "rank": 4},
    ).json()
    assert again["input"]["revision"].startswith("local:")


WITHOUT_ADAPTER = {name: content for name, content in FILES.items() if "adapter" not in name}


@pytest.mark.parametrize(
    ("method", "files", "fields"),
    [
        ("l4q", FILES, {}),
        ("l4q", WITHOUT_ADAPTER, {"group_size": -1}),
        ("qa-lora", WITHOUT_ADAPTER, {"method": "gptq"}),
    ],
)
def test_a_base_that_a_method_can_train(
    service: Service, method: str, files: dict[str, bytes], fields: dict[str, Any]
) -> None:
    base, dataset = service.finished(files, **fields), service.upload(WORDS)
    answer = post(service, base=base["id"], dataset=dataset["id"], method=method)
    assert answer.status_code == 202, answer.text
    assert answer.json()["input"]["method"] == method


@pytest.mark.parametrize(
    ("method", "files", "fields", "says"),
    [
        ("l4q", FILES, {"formats": ["dense"]}, "which publishes dense weights"),
        ("l4q", FILES, {"adapter": "ia3"}, "which has an adapter ia3"),
        ("qa-lora", WITHOUT_ADAPTER, {"formats": ["dense"]}, "which publishes dense weights"),
        ("qa-lora", FILES, {}, "which has an adapter; legal for method qa-lora: a quantize job"),
        ("qa-lora", WITHOUT_ADAPTER, {"group_size": -1, "rank": 0}, "whole rows"),
    ],
)
def test_a_base_that_a_method_cannot_train(
    service: Service, method: str, files: dict[str, bytes], fields: dict[str, Any], says: str
) -> None:
    base, dataset = service.finished(files, **fields), service.upload(WORDS)
    answer = post(service, base=base["id"], dataset=dataset["id"], method=method)
    problem = service.refused(answer, 422, "illegal_base")
    assert problem["errors"][0]["pointer"] == "#/base"
    assert says in problem["detail"]


@pytest.mark.parametrize("method", ["l4q", "qa-lora"])
def test_a_model_is_no_base_of_a_method_that_needs_integers(service: Service, method: str) -> None:
    dataset = service.upload(WORDS)
    answer = post(service, base="tiny", dataset=dataset["id"], method=method)
    problem = service.refused(answer, 422, "illegal_base")
    assert "a model, whose weights are in no groups of integers" in problem["detail"]


def test_l4q_quantizes_a_model_while_it_trains(service: Service) -> None:
    dataset = service.upload(WORDS)["id"]
    asked = {"base": "tiny", "dataset": dataset, "method": "l4q", "bits": 2}
    answer = post(service, **asked)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["waits_for"], job["input"]["bits"]) == (None, 2)
    assert [job["id"]] == [found["id"] for found in service.http.get("/jobs").json()["jobs"]]
    service.http.post(job["urls"]["cancel"])
    retried = service.http.post(job["urls"]["retry"]).json()
    assert retried["input"] == job["input"]
    for fields, pointer in (
        ({"quantize": {"method": "gptq"}}, "#/quantize"),
        ({"bits": None, "bits_per_weight": 3.0}, "#/bits_per_weight"),
    ):
        problem = service.refused(post(service, **(asked | fields)), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == pointer
        assert "method l4q trains the model's own weights" in problem["detail"]


def test_what_it_needs_stays_until_it_ends(service: Service) -> None:
    base, dataset = service.finished(FILES), service.upload(WORDS)
    job = post(service, base=base["id"], dataset=dataset["id"]).json()
    service.refused(service.http.delete(base["urls"]["self"]), 409, "job_in_use")
    service.refused(service.http.delete(f"/datasets/{dataset['id']}"), 409, "dataset_in_use")
    assert service.http.post(job["urls"]["cancel"]).json()["state"] == "cancelled"
    retried = service.http.post(job["urls"]["retry"]).json()
    assert retried["input"] == job["input"]
    service.http.post(retried["urls"]["cancel"])
    assert service.http.delete(f"/datasets/{dataset['id']}").status_code == 204
    assert service.http.delete(base["urls"]["self"]).status_code == 204
    problem = service.refused(service.http.post(job["urls"]["retry"]), 422, "unknown_dataset")
    assert problem["errors"][0]["pointer"] == "#/dataset"


def test_a_validation_set(service: Service) -> None:
    base, rows = service.finished(FILES), b'{"text": "a"}\n'
    dataset, validation = (service.upload(rows, "application/jsonl")["id"] for _ in range(2))
    text = service.upload(WORDS)["id"]
    asked = {"base": base["id"], "dataset": dataset}
    for fields, code, says in (
        ({"validation": NOWHERE_DATASET}, "unknown_dataset", "there is no dataset"),
        ({"validation": "rows"}, "invalid_request", "legal: `ds_...`, the id of"),
        ({"validation": text}, "wrong_dataset_kind", "a dataset of kind text; legal: one of kind"),
        ({"validation": dataset}, "invalid_request", "legal: another dataset"),
        (
            {"validation": validation, "validation_fraction": 0.05},
            "invalid_request",
            "validation_fraction is given too, 0.05; legal: one of them",
        ),
    ):
        problem = service.refused(post(service, **asked, **fields), 422, code)
        assert [error["pointer"] for error in problem["errors"]] == ["#/validation"]
        assert says in problem["detail"]
    problem = service.refused(post(service, **asked), 422, "too_little_data")
    assert (problem["errors"][0]["pointer"], problem["legal"]) == ("#/dataset", {"at_least": 2})
    answer = post(service, **asked, validation=validation)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["input"]["validation"], job["input"]["dataset_kind"]) == (validation, "rows")
    assert job["input"]["validation_fraction"] is None
    service.refused(service.http.delete(f"/datasets/{validation}"), 409, "dataset_in_use")
    service.http.post(job["urls"]["cancel"])
    retried = service.http.post(job["urls"]["retry"]).json()
    assert retried["input"] == job["input"]
    service.http.post(retried["urls"]["cancel"])
    assert service.http.delete(f"/datasets/{validation}").status_code == 204
    problem = service.refused(service.http.post(job["urls"]["retry"]), 422, "unknown_dataset")
    assert problem["errors"][0]["pointer"] == "#/validation"


CHAT = (
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n'
)


@pytest.mark.parametrize("base", ["job", "queued", "model", "chain"])
def test_chats_need_a_chat_template(service: Service, base: str) -> None:
    """Whose files say so at once; a base from before that was looked at is tried."""
    rows = b'{"text": "a"}\n' * 2
    chats, plain = (
        service.upload(content, "application/jsonl")["id"] for content in (rows + CHAT, rows)
    )
    models_dir = service.context.settings.models_dir
    config = '{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}'
    for name, file, content in (
        ("spoken", "chat_template.jinja", "{{ messages }}"),
        ("told", "tokenizer_config.json", config),
    ):
        (place_model(models_dir, models_dir / "tiny", name) / file).write_text(content)

    def asked(model: str) -> dict[str, Any]:
        if base == "chain":
            return {"base": model, "bits": 2}
        if base == "model":
            return {"base": model}
        job = service.finished(FILES, model=model) if base == "job" else service.submit(model=model)
        return {"base": job["id"]}

    for fields in ({"dataset": chats}, {"dataset": plain, "validation": chats}):
        problem = service.refused(post(service, **asked("tiny"), **fields), 422, "no_chat_template")
        (error,) = problem["errors"]
        assert (error["pointer"], error["value"]) == (f"#/{[*fields][-1]}", chats)
        assert "1 are chats (messages), and tiny has no chat template" in problem["detail"]
    assert post(service, **asked("tiny"), dataset=plain).status_code == 202
    for model in ("spoken", "told"):
        answer = post(service, **asked(model), dataset=chats)
        assert answer.status_code == 202, answer.text


def test_a_text_of_one_window_cannot_be_divided(service: Service) -> None:
    base, text = service.finished(FILES)["id"], service.upload(b"word" * 16)["id"]
    fields = {"base": base, "dataset": text}
    problem = service.refused(post(service, **fields), 422, "too_little_data")
    assert (problem["errors"][0]["pointer"], problem["legal"]) == ("#/dataset", {"at_least": 2})
    assert "a text of 64 bytes, no more than one window of 512 tokens" in problem["detail"]
    service.refused(post(service, **fields, max_length=65), 422, "too_little_data")
    validation = service.upload(b"word")["id"]
    for more in ({"max_length": 64}, {"validation": validation}):
        assert post(service, **fields, **more).status_code == 202


def test_the_same_request_makes_one_job(service: Service) -> None:
    base, dataset = service.finished(FILES), service.upload(WORDS)
    body = {"type": "finetune", "base": base["id"], "dataset": dataset["id"]}
    headers = {"idempotency-key": "once"}
    first, second = (service.http.post("/jobs", json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    other = service.http.post("/jobs", json=body | {"lr": 1e-3}, headers=headers)
    service.refused(other, 409, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("fields", "code", "pointer", "says"),
    [
        ({"base": NOWHERE_JOB}, "base_not_found", "#/base", "there is no such job"),
        (
            {"base": "nowhere", "revision": "local:0"},
            "model_not_found",
            "#/base",
            "there is no model",
        ),
        ({"base": "a b"}, "invalid_request", "#/base", "legal: `job_...`, or a model id"),
        ({"base": None}, "invalid_request", "#/base", "base is null"),
        ({"dataset": NOWHERE_DATASET}, "unknown_dataset", "#/dataset", "there is no dataset"),
        (
            {"dataset": "openai/gsm8k"},
            "invalid_request",
            "#/dataset",
            'legal: `ds_...`, the id of an uploaded dataset; `POST /datasets` with `{"hub"',
        ),
        ({"base": "tiny", "rank": 65}, "rank_too_large", "#/rank", "rank is 65"),
        ({"base": "tiny", "max_length": 513}, "length_exceeds_context", "#/max_length", "512"),
        ({"revision": "main"}, "illegal_revision", "#/revision", "base is a job"),
        ({"validation_fraction": 1}, "invalid_request", "#/validation_fraction", "less than 1"),
        ({"validation_fraction": 0}, "invalid_request", "#/validation_fraction", "greater than 0"),
        ({"lr": 0}, "invalid_request", "#/lr", "greater than 0"),
        ({"lr": -1e-3}, "invalid_request", "#/lr", "greater than 0"),
        ({"train": "q_proj"}, "invalid_request", "#/train", "'all', 'attention' or 'mlp'"),
        (
            {"method": "l4q", "adapter": "dora"},
            "invalid_request",
            "#/adapter",
            "legal only with method lora",
        ),
        ({"method": "dora"}, "invalid_request", "#/method", "'lora', 'qa-lora' or 'l4q'"),
        ({"lr_quantizer": 2}, "invalid_request", "#/lr_quantizer", "at most 1"),
        ({"lr_quantizer": 0.5}, "invalid_request", "#/lr_quantizer", "0.5: method is lora"),
        (
            {"micro_batch_size": 8, "batch_size": 7},
            "invalid_request",
            "#/micro_batch_size",
            "8: more than batch_size; legal: at most 7",
        ),
        ({"epochs": 0}, "invalid_request", "#/epochs", "at least 1"),
        ({"bits": 2}, "invalid_request", "#/bits", "base is a job"),
        ({"learning_rate": 1}, "invalid_request", "#/learning_rate", "is not a field"),
        ({"type": "distill"}, "invalid_request", "#/type", "legal: quantize, finetune"),
        ({"type": None}, "invalid_request", "#/type", "type is null; legal: quantize, finetune"),
        ({"type": ""}, "invalid_request", "#/type", "type is ''; legal: quantize, finetune"),
        ({"base": "job_01a21b10"}, "invalid_request", "#/base", "legal: all of the id, as `GET"),
    ],
)
def test_bad_fields(
    service: Service, fields: dict[str, Any], code: str, pointer: str, says: str
) -> None:
    base, dataset = service.finished(FILES), service.upload(WORDS)
    answer = post(service, **({"base": base["id"], "dataset": dataset["id"]} | fields))
    problem = service.refused(answer, 422, code)
    assert problem["errors"][0]["pointer"] == pointer
    assert says in problem["detail"]


@pytest.mark.parametrize("missing", ["base", "dataset"])
def test_what_is_missing_is_named(service: Service, missing: str) -> None:
    body = {"base": "tiny", "dataset": NOWHERE_DATASET}
    del body[missing]
    problem = service.refused(post(service, **body), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == f"#/{missing}"


def test_a_base_that_is_not_ready(service: Service) -> None:
    dataset = service.upload(WORDS)["id"]
    cancelled = service.submit()
    running = service.claim()
    service.http.post(cancelled["urls"]["cancel"])
    says = service.refused(post(service, base=running.id, dataset=dataset), 422, "base_not_ready")
    assert "a job that is cancelling" in says["detail"]
    service.submit()
    running = service.claim()
    service.fail(running, {"code": "x", "message": "y", "fault": "user", "retryable": False})
    says = service.refused(post(service, base=running.id, dataset=dataset), 422, "base_not_ready")
    assert "that is failed" in says["detail"]
    base = service.finished(FILES)
    finetuned = post(service, base=base["id"], dataset=dataset).json()
    service.publish(service.claim(), FILES)
    says = service.refused(
        post(service, base=finetuned["id"], dataset=dataset), 422, "illegal_base"
    )
    assert "a finetune job; legal: a quantize job" in says["detail"]
    service.http.delete(base["urls"]["self"])
    service.refused(post(service, base=base["id"], dataset=dataset), 422, "base_not_found")
