"""A dataset in the tokens of the model that is to be trained on it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import hub as hub_client
from jobs.datasets import token_previews
from tests.integration.api.hub_server import Hub
from tests.integration.api.support import Service, place_model

JSONL = "application/jsonl"
NOWHERE = "job_019ab6f2-6c1d-7f04-8a53-c2f1d09e7b44"
QUESTION = {"question": "What is 2 and 2?", "answer": "4"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
PLAIN = ("config.json", "tokenizer.json", "tokenizer_config.json")


def upload(service: Service, *rows: dict[str, Any]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return str(service.upload(content, JSONL)["id"])


def preview(service: Service, dataset: str, base: str) -> Any:
    return service.http.get(f"/datasets/{dataset}/preview", params={"base": base})


def test_of_a_model(service: Service) -> None:
    dataset = upload(service, QUESTION, {"text": "the module " * 20}, QUESTION, QUESTION)
    answer = preview(service, dataset, "tiny")
    assert answer.status_code == 200, answer.text
    first, second, _ = answer.json()["rows"]
    assert first["segments"][1] == {"text": " 4", "learned": True}
    assert (
        "".join(t["text"] for t in first["tokens"]) == "Question: What is 2 and 2?\nAnswer: 4</s>"
    )
    assert "".join(t["text"] for t in first["tokens"] if t["learned"]) == " 4</s>"
    assert first["length"] == len(first["tokens"])
    assert first["learned"] == sum(t["learned"] for t in first["tokens"])
    counts = answer.json()["counts"]
    assert counts == {
        "rows": 4,
        "tokens": 3 * first["length"] + second["length"],
        "learned": 3 * first["learned"] + second["length"] - 1,
        "longest": second["length"],
        "max_length": 512,
        "too_long": 0,
        "counted_bytes": service.http.get(f"/datasets/{dataset}").json()["size_bytes"],
        "is_partial": False,
    }
    asked = {"base": "tiny", "max_length": second["length"] - 1}
    shorter = service.http.get(f"/datasets/{dataset}/preview", params=asked).json()["counts"]
    assert shorter == counts | {"max_length": second["length"] - 1, "too_long": 1}
    plain = service.http.get(f"/datasets/{dataset}/preview").json()
    assert "counts" not in plain and "tokens" not in plain["rows"][0]


def test_of_a_text(service: Service) -> None:
    dataset = service.upload(b"Some words to learn.")["id"]
    (row,) = preview(service, dataset, "tiny").json()["rows"]
    assert "".join(token["text"] for token in row["tokens"]) == "Some words to learn."


def test_of_a_job(service: Service, tiny_model: Path) -> None:
    files = {f"model/{name}": (tiny_model / name).read_bytes() for name in PLAIN}
    config = json.loads(files["model/config.json"]) | {"quantization_config": {}}
    files["model/config.json"] = json.dumps(config).encode()
    files["model/chat_template.jinja"] = TEMPLATE.encode()
    base = service.finished(files | {"model/model.safetensors": b"never read"})["id"]
    dataset = upload(service, CHAT)
    answer = preview(service, dataset, base)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["rows"]
    assert "".join(t["text"] for t in row["tokens"]) == "<s>user: Hi</s><s>assistant: Ho</s>"


def test_of_a_model_on_the_hub(
    service: Service, hub: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, hub.root / "models/org/far")
    dataset = upload(service, QUESTION)
    answer = preview(service, dataset, "org/far")
    assert answer.status_code == 200, answer.text
    assert hub.fetched() <= {*PLAIN, "generation_config.json"}
    monkeypatch.setattr(hub_client, "MAX_PLAIN_BYTES", 1000)
    problem = service.refused(preview(service, dataset, "org/far"), 422, "tokenizer_too_large")
    assert problem["legal"] == {"at_most": 1000}
    hub.gated.add("org/far")
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    shutil.rmtree(hub.root.parent / "hub-cache", ignore_errors=True)
    service.refused(preview(service, dataset, "org/far"), 422, "model_gated")


def test_what_cannot_be_shown(service: Service) -> None:
    dataset, chat = upload(service, QUESTION), upload(service, CHAT)
    queued, lost = service.submit()["id"], service.submit()["id"]
    service.http.post(f"/jobs/{lost}/cancel")
    for data, base, status, code in (
        (dataset, "nowhere", 503, "hub_unreachable"),
        (dataset, "a b", 422, "invalid_request"),
        (dataset, "../tiny", 422, "invalid_request"),
        (dataset, "", 422, "invalid_request"),
        (dataset, NOWHERE, 422, "base_not_found"),
        (dataset, queued, 409, "base_not_finished"),
        (dataset, lost, 422, "base_not_ready"),
        (chat, "tiny", 422, "no_chat_template"),
    ):
        problem = service.refused(preview(service, data, base), status, code)
        assert [error["pointer"] for error in problem["errors"]] == ["?base"]
        assert problem["retryable"] is (code in ("hub_unreachable", "base_not_finished"))
    for length in (7, 32769):  # as of a job
        asked = {"base": "tiny", "max_length": length}
        answer = service.http.get(f"/datasets/{dataset}/preview", params=asked)
        problem = service.refused(answer, 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "?max_length"
    missing = f"ds_{NOWHERE.removeprefix('job_')}"
    service.refused(preview(service, missing, "tiny"), 404, "dataset_not_found")


def test_of_a_large_dataset_the_beginning_is_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = upload(service, *[QUESTION] * 100)
    line_bytes = service.http.get(f"/datasets/{dataset}").json()["size_bytes"] // 100
    monkeypatch.setattr(token_previews, "COUNTED_BYTES", 10 * line_bytes + 5)
    counts = preview(service, dataset, "tiny").json()["counts"]
    assert (counts["rows"], counts["counted_bytes"]) == (10, 10 * line_bytes)
    assert counts["is_partial"] is True


def test_a_template_that_never_ends(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's template holds the service up."""
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    directory = place_model(
        service.context.settings.models_dir, service.context.settings.models_dir / "tiny", "endless"
    )
    (directory / "chat_template.jinja").write_text(endless)
    monkeypatch.setattr(token_previews, "TIMEOUT_S", 8.0)
    problem = service.refused(
        preview(service, upload(service, CHAT), "endless"), 422, "tokenizer_fails"
    )
    assert "more than 8 s" in problem["detail"]


def test_a_tokenizer_that_is_none(service: Service) -> None:
    directory = place_model(
        service.context.settings.models_dir, service.context.settings.models_dir / "tiny", "broken"
    )
    (directory / "tokenizer.json").write_text("{}")
    answer = preview(service, upload(service, QUESTION), "broken")
    assert answer.status_code == 422 and answer.json()["code"] in (
        "corrupt_tokenizer",
        "tokenizer_fails",
    )


def test_the_service_loads_no_transformers() -> None:
    code = "import sys, api.app; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
