"""The request model, and what is said of a body that does not fit it."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from api.validation import FieldError, describe
from apiq_core.config import QuantizeConfig, is_model_id
from jobs.requests import QuantizeRequest

GOOD = {"model": "org/name", "bits": 2}


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


def refusal(body: Any) -> FieldError:
    with pytest.raises(ValidationError) as caught:
        QuantizeRequest.model_validate(body)
    (error,) = caught.value.errors()
    return describe(error | {"loc": ("body", *error["loc"])})


def test_model_and_bits_suffice() -> None:
    request = QuantizeRequest.model_validate(GOOD)
    assert request.type == "quantize"
    assert request.config() == QuantizeConfig(bits=2)


@pytest.mark.parametrize("width", [{"bits": 2, "rank": 4}, {"bits_per_weight": 3}])
def test_input_gives_the_same_request_back(width: dict[str, Any]) -> None:
    body = {"model": "m", "calibration": {"samples": 3}, "revision": "main"} | width
    request = QuantizeRequest.model_validate(body)
    kept = json.loads(json.dumps(request.to_input()))
    assert list(kept)[:4] == ["type", "model", "revision", "bits"]
    assert QuantizeRequest.model_validate(kept) == request
    assert QuantizeRequest.model_validate(kept).config() == request.config()


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (GOOD | {"bits": 5}, "#/bits", "bits is 5; legal: 2, 3, 4 or 8"),
        (GOOD | {"group_size": 100}, "#/group_size", "100; legal: 32, 64, 128 or -1"),
        (GOOD | {"bits": True}, "#/bits", "bits is true; legal: 2, 3, 4 or 8"),
        (GOOD | {"seed": None}, "#/seed", "seed is null; legal: a whole number, at least 0 and"),
        (GOOD | {"training": [None]}, "#/training", "training is [null]; legal: a JSON object"),
        (GOOD | {"formats": []}, "#/formats", "formats is []; legal: at least 1 item"),
        (
            {"model": "m", "bits_per_weight": float("nan")},
            "#/bits_per_weight",
            "bits_per_weight is NaN; legal: a number, at least 2 and at most 8",
        ),
        (GOOD | {"model": "./x"}, "#/model", "`apiq models import SOURCE --name ID` brings"),
        (GOOD | {"rank": 9999}, "#/rank", "rank is 9999; legal: at most 512"),
        (GOOD | {"group": 64}, "#/group", "group is not a field; did you mean `group_size`?"),
        (
            GOOD | {"zzzz": 1},
            "#/zzzz",
            "zzzz is not a field; legal: adapter, bits, bits_per_weight",
        ),
        (
            GOOD | {"calibration": {"sampels": 3}},
            "#/calibration/sampels",
            "calibration.sampels is not a field; did you mean `samples`?",
        ),
        (GOOD | {"calibration": 5}, "#/calibration", "calibration is 5; legal: a JSON object"),
        (
            GOOD | {"calibration": {"source": "imagenet"}},
            "#/calibration/source",
            "'imagenet'; legal: `wikitext2`, `builtin`, or",
        ),
        ({"bits": 2}, "#/model", "model is missing: The model: `name` or `org/name`"),
        (
            {"model": "m"},
            "#/bits",
            "neither bits nor bits_per_weight is given; legal: one of them",
        ),
        (GOOD | {"bits_per_weight": 2.5}, "#/bits_per_weight", "bits is given too, 2; legal: one"),
        ({"model": "m", "bits_per_weight": 1}, "#/bits_per_weight", "1; legal: at least 2"),
        (
            {"model": "m", "bits_per_weight": 2.5, "rank": 8},
            "#/rank",
            "rank is 8: bits_per_weight chooses the ranks; legal: leave rank out",
        ),
        (GOOD | {"type": "finetune"}, "#/type", "'finetune'; legal: 'quantize'"),
        ([], "#", "the body is of type array; legal: a JSON object"),
        (GOOD | {"labels": {"a b": "c"}}, "#/labels", "label key 'a b'; legal: 1 to 63"),
        (GOOD | {"labels": {"a": "x" * 256}}, "#/labels", "at most 255 Unicode characters"),
        (GOOD | {"labels": {str(i): "" for i in range(33)}}, "#/labels", "33 labels; legal: at"),
        (GOOD | {"labels": {"a": "\ud800"}}, "#/labels", "Unicode characters"),
        (GOOD | {"metadata": {"a": "\ud800"}}, "#/metadata", "characters that cannot be stored"),
        (GOOD | {"metadata": {"a": ["\x00"]}}, "#/metadata", "Unicode without U+0000"),
        (GOOD | {"metadata": {"a": float("nan")}}, "#/metadata", "no NaN"),
        (GOOD | {"metadata": {"a": nested(500)}}, "#/metadata", "legal: no deep nesting"),
        (GOOD | {"bits": float("nan")}, "#/bits", "bits is NaN; legal: 2, 3, 4 or 8"),
        (GOOD | {"model": "x" * 97}, "#/model", "... (97 characters): not a model id"),
        (GOOD | {"metadata": {"a": "x" * 20_000}}, "#/metadata", "legal: at most 16384"),
        (GOOD | {"revision": "../x"}, "#/revision", "legal: a branch, a tag or a commit"),
    ],
)
def test_what_does_not_fit(body: Any, pointer: str, detail: str) -> None:
    found = refusal(body)
    assert found.pointer == pointer
    assert detail in found.detail
    assert len(found.detail) < 400


@pytest.mark.parametrize(
    ("body", "value", "legal"),
    [
        (GOOD | {"bits": 5}, 5, [2, 3, 4, 8]),
        (GOOD | {"rank": 9999}, 9999, {"at_least": 0, "at_most": 512}),
        (GOOD | {"seed": 2**32}, 2**32, {"at_least": 0, "less_than": 2**32}),
        (GOOD | {"bits_per_weight": 2.5}, 2.5, "one of them"),
        (GOOD | {"training": []}, [], "a JSON object"),
        (GOOD | {"revision": "../x"}, "../x", "a branch, a tag or a commit of the hub"),
        (GOOD | {"revision": "../x" * 99}, None, "a branch, a tag or a commit of the hub"),
        ({"model": "m", "bits_per_weight": float("inf")}, None, {"at_least": 2, "at_most": 8}),
        (GOOD | {"hub_token": "so secret"}, None, "8 to 500 of ASCII letters, digits"),
        (GOOD | {"hub_tokn": "so secret"}, None, None),
        (GOOD | {"model": {"hub_token": "so secret"}}, None, "text"),
        (GOOD | {"calibration": [{"hub_token": "so secret"}]}, None, "a JSON object"),
    ],
)
def test_value_and_legal_for_a_program(body: Any, value: Any, legal: Any) -> None:
    found = refusal(body)
    assert found.value == value
    if isinstance(legal, str):
        assert found.legal.startswith(legal)
    else:
        assert found.legal == legal
    assert "so secret" not in found.detail


def test_metadata_may_speak_of_null_characters() -> None:
    QuantizeRequest.model_validate(GOOD | {"metadata": {"a": r"\u0000 and \\u0000"}})


@pytest.mark.parametrize(
    "model",
    [
        "..",
        "../x",
        "a/..",
        "a/../../etc",
        "a..b",
        "/etc/passwd",
        "C:\\models",
        "a\\b",
        "a/b/c",
        "org/",
        "/name",
        "name\n",
        "na\nme",
        "nàme",
        "\uff4eame",  # a full-width n
        "na me",
        "",
        ".hidden",
        "-rf",
        "a/-b",
        "a" * 97,
        "\ud800",
        "a\x00",
        "http://x/y",
        "a%2e%2e",
    ],
)
def test_what_is_no_model_id(model: str) -> None:
    assert not is_model_id(model)
    found = refusal({"model": model, "bits": 2})
    assert found.pointer == "#/model"
    assert "legal: `name` or `org/name`" in found.detail


@pytest.mark.parametrize("model", ["gpt2", "meta-llama/Llama-3.1_8B", "0x/1", "a" * 96])
def test_what_is_a_model_id(model: str) -> None:
    assert is_model_id(model)
