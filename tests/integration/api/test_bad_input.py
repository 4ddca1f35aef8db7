"""What POST /jobs refuses: one clear problem each, with field, value and what is legal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import Settings
from tests.integration.api.hub_server import Hub
from tests.integration.api.live import NO_HUB
from tests.integration.api.support import Service, place_model

# none of it gets as far as the records or the store
pytestmark = pytest.mark.column("embedded")

Change = Callable[[Path], object]


def edit_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


@pytest.mark.parametrize(
    ("fields", "code", "pointer", "parts"),
    [
        ({"bits": 5}, "invalid_request", "#/bits", ["bits is 5", "legal: 2, 3, 4 or 8"]),
        (
            {"group_size": 100},
            "invalid_request",
            "#/group_size",
            ["group_size is 100", "legal: 32, 64, 128 or -1"],
        ),
        (
            {"group_size": 128},  # the tiny model is 64 wide
            "group_size_does_not_divide",
            "#/group_size",
            ["128", "64 inputs", "mlp.gate_proj", "legal for this model: 32, 64, -1"],
        ),
        ({"rank": 500}, "rank_too_large", "#/rank", ["rank 500", "self_attn", "legal: 0 to 32"]),
        (
            {"bits_per_weight": 2.5},
            "invalid_request",
            "#/bits_per_weight",
            ["bits is given too, 2", "legal: one of them"],
        ),
        (
            {"bits": None},
            "invalid_request",
            "#/bits",
            ["neither bits nor bits_per_weight is given"],
        ),
        (
            {"bits": None, "bits_per_weight": 2.25},
            "budget_too_small",
            "#/bits_per_weight",
            ["2.25", "groups of 64", "2.3750; legal: at least 2.375"],
        ),
        (
            {"adapter": "dora", "method": "apiq-lw"},
            "illegal_adapter",
            "#/adapter",
            ["needs method apiq-bw, not apiq-lw", "legal here: lora"],
        ),
        ({"rank": -1}, "invalid_request", "#/rank", ["rank is -1", "legal: at least 0"]),
        (
            {"calibration": {"length": 4096}},
            "length_exceeds_context",
            "#/calibration/length",
            ["4096", "legal: 8 to 512"],
        ),
        (
            {"method": "rtn", "recipe": "fast"},
            "illegal_recipe",
            "#/recipe",
            ["rtn has no recipe 'fast'"],
        ),
        (
            {"calibration": {"source": "dataset:ds_" + "0" * 32}},
            "unknown_source",
            "#/calibration/source",
            ["there is no dataset ds_000"],
        ),
        (
            {"evaluation": {"source": "dataset:ds_" + "0" * 32}},
            "unknown_source",
            "#/evaluation/source",
            ["there is no dataset ds_000"],
        ),
        (
            {"grup_size": 64},
            "invalid_request",
            "#/grup_size",
            ["grup_size is not a field", "did you mean `group_size`?"],
        ),
        ({"model": "../tiny"}, "invalid_request", "#/model", ["'../tiny'", "legal: `name`"]),
        ({"model": "tiny\n"}, "invalid_request", "#/model", [r"'tiny\n'", "legal: `name`"]),
        ({"model": "tïny"}, "invalid_request", "#/model", ["'tïny'", "legal: `name`"]),
        ({"model": "/etc"}, "invalid_request", "#/model", ["'/etc'", "legal: `name`"]),
        ({"model": "\ud800"}, "invalid_request", "#/model", [r"'\ud800'", "legal: `name`"]),
        ({"\ud800": 1}, "invalid_request", "#", ["the body is"]),
    ],
)
def test_fields(
    service: Service, fields: dict[str, Any], code: str, pointer: str, parts: list[str]
) -> None:
    content = json.dumps({"model": "tiny", "bits": 2} | fields)
    answer = service.http.post(
        "/jobs", content=content, headers={"content-type": "application/json"}
    )
    problem = service.refused(answer, 422, code)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    for part in parts:
        assert part in problem["detail"]
    assert problem["fault"] == "user"


def test_a_model_that_is_nowhere(service: Service, hub: Hub) -> None:
    answer = service.http.post("/jobs", json={"model": "org/none", "bits": 2})
    problem = service.refused(answer, 422, "model_not_found")
    assert [error["pointer"] for error in problem["errors"]] == ["#/model"]
    for part in ("models/org/none", "there are tiny", hub.url, "apiq models import"):
        assert part in problem["detail"]
    assert (problem["fault"], problem["retryable"]) == ("user", False)


def test_a_model_that_only_a_silent_hub_may_have(service: Service) -> None:
    answer = service.http.post("/jobs", json={"model": "org/none", "bits": 2})
    problem = service.refused(answer, 503, "hub_unreachable")
    assert [error["pointer"] for error in problem["errors"]] == ["#/model"]
    for part in ("models/org/none", "there are tiny", NO_HUB, "apiq models import"):
        assert part in problem["detail"]
    assert (problem["fault"], problem["retryable"]) == ("infra", True)


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        (
            lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
            "pickle_weights",
            "pytorch_model.bin",
        ),
        (lambda d: edit_config(d, auto_map={"A": "b.C"}), "remote_code", "auto_map"),
        (lambda d: cut(d / "model.safetensors", 5000), "corrupt_weights", "model.safetensors"),
        (
            lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 4000),
            "corrupt_weights",
            "model.safetensors",
        ),
        (lambda d: (d / "tokenizer.json").unlink(), "missing_tokenizer", "tokenizer.json"),
        (lambda d: edit_config(d, model_type="gpt2"), "unsupported_architecture", "gpt2"),
        (lambda d: (d / "config.json").unlink(), "missing_config", "config.json"),
        (lambda d: (d / "config.json").write_text("{"), "corrupt_config", "config.json"),
        (lambda d: edit_config(d, quantization_config={}), "already_quantized", "full-precision"),
    ],
)
def test_models(
    service: Service, settings: Settings, tiny_model: Path, change: Change, code: str, part: str
) -> None:
    change(place_model(settings.models_dir, tiny_model, "org/broken"))
    answer = service.http.post("/jobs", json={"model": "org/broken", "bits": 2})
    problem = service.refused(answer, 422, code)
    assert part in problem["detail"]
    assert [error["pointer"] for error in problem["errors"]] == ["#/model"]


def test_a_text_that_is_surely_too_short(service: Service) -> None:
    source = f"dataset:{service.upload(b'x' * 5000)['id']}"
    body: dict[str, Any] = {"model": "tiny", "bits": 2, "calibration": {"source": source}}
    problem = service.refused(service.http.post("/jobs", json=body), 422, "too_little_text")
    assert problem["detail"] == (
        f"calibration asks for 64 windows of 256 tokens, and 8 held out; {source} has 5000 bytes, "
        "at most 19 windows; legal: samples of at most 11"
    )
    assert problem["legal"] == {"at_most": 11}
    body["calibration"]["held_out"] = 19
    problem = service.refused(service.http.post("/jobs", json=body), 422, "too_little_text")
    assert [error["pointer"] for error in problem["errors"]] == ["#/calibration/held_out"]
    assert problem["legal"] == {"at_most": 18}
    body["calibration"]["source"] = f"dataset:{service.upload(b'x' * 300)['id']}"
    problem = service.refused(service.http.post("/jobs", json=body), 422, "too_little_text")
    assert "at most 1 windows; legal: a longer text, or a smaller length" in problem["detail"]
    body["calibration"] |= {"held_out": 8, "samples": 11, "source": source}
    body["evaluation"] = {"samples": 0}
    assert service.http.post("/jobs", json=body).status_code == 202


def test_several_errors_at_once(service: Service) -> None:
    answer = service.http.post("/jobs", json={"bits": 5, "typo": 1})
    problem = service.refused(answer, 422, "invalid_request")
    assert {x["pointer"] for x in problem["errors"]} == {"#/bits", "#/typo", "#/model"}


@pytest.mark.parametrize(
    ("body", "pointer", "says"),
    [
        ({"quantize": {"bits": 2}}, "#/quantize", "quantize is not a field; legal: hub_token"),
        ({"finetune": 1}, "#/finetune", "finetune is not a field; legal: hub_token"),
        ({"bits": 3}, "#/bits", "bits is not a field; legal: hub_token"),
        ({"hub_tokn": "x"}, "#/hub_tokn", "did you mean `hub_token`?"),
        ({"hub_token": "short"}, "#/hub_token", "hub_token is [secret]"),
        ([], "#", "the body is of type array; legal: a JSON object"),
    ],
)
def test_what_a_retry_cannot_be_sent(
    service: Service, body: object, pointer: str, says: str
) -> None:
    job = service.submit()
    answer = service.http.post(job["urls"]["retry"], json=body)
    problem = service.refused(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert says in problem["detail"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'model': 1}",
        b'{"model": "tiny", "bits": 2',
        b"\xff\xfe",
        b"[" * 100_000,
        b"1" * 5000,
        b"\x1f\x8b",
    ],
)
def test_malformed_json(service: Service, content: bytes) -> None:
    answer = service.http.post(
        "/jobs", content=content, headers={"content-type": "application/json"}
    )
    if content == b"":
        service.refused(answer, 422, "invalid_request")
    else:
        problem = service.refused(answer, 400, "malformed_json")
        if content[:1] in (b"1", b"\x1f"):
            assert "not compressed, without deep nesting and numbers of" in problem["detail"]


@pytest.mark.parametrize("content", [b"null", b"[]", b"3", b'"x"'])
def test_json_that_is_no_object(service: Service, content: bytes) -> None:
    answer = service.http.post(
        "/jobs", content=content, headers={"content-type": "application/json"}
    )
    service.refused(answer, 422, "invalid_request")


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_wrong_content_type(service: Service, media_type: str | None) -> None:
    headers = {} if media_type is None else {"content-type": media_type}
    answer = service.http.post("/jobs", content=b'{"model": "tiny", "bits": 2}', headers=headers)
    problem = service.refused(answer, 415, "unsupported_media_type")
    assert "legal: application/json" in problem["detail"]


def test_a_body_that_is_too_large(service: Service, settings: Settings) -> None:
    limit = settings.max_body_bytes
    body = json.dumps({"model": "tiny", "bits": 2, "metadata": {"x": "y" * limit}}).encode()
    headers = {"content-type": "application/json"}
    declared = service.http.post("/jobs", content=body, headers=headers)
    chunked = service.http.post(
        "/jobs", content=iter([body[: limit // 2], body[limit // 2 :]]), headers=headers
    )
    for answer in (declared, chunked):
        problem = service.refused(answer, 413, "body_too_large")
        assert f"at most {limit} bytes" in problem["detail"]


def test_paths_and_methods_that_are_none(service: Service) -> None:
    service.refused(service.http.get("/nothing"), 404, "not_found")
    problem = service.refused(service.http.put("/jobs", json={}), 405, "method_not_allowed")
    assert "PUT" in problem["detail"]
