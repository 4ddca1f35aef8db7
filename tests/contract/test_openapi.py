"""openapi.json is what the code says, and says enough."""

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from api import openapi, reference
from api.app import create_app
from api.problems import PROBLEMS
from api.queries import parameters_of
from apiq_core.config import QuantizeConfig
from jobs.requests import FinetuneRequest, QuantizeRequest
from jobs.settings import Settings
from tests.compose import ROOT

DOCS = ROOT / "docs/reference/http.md"
ROUTES = {
    ("post", "/jobs"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("delete", "/jobs/{job_id}"),
    ("post", "/jobs/{job_id}/cancel"),
    ("post", "/jobs/{job_id}/retry"),
    ("get", "/jobs/{job_id}/events"),
    ("get", "/jobs/{job_id}/logs"),
    ("get", "/jobs/{job_id}/artifacts"),
    ("get", "/jobs/{job_id}/artifacts.tar"),
    ("get", "/jobs/{job_id}/artifacts/{path}"),
    ("post", "/datasets"),
    ("get", "/datasets"),
    ("get", "/datasets/{dataset_id}"),
    ("get", "/datasets/{dataset_id}/preview"),
    ("delete", "/datasets/{dataset_id}"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/version"),
    ("get", "/metrics"),
}

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def current(app: FastAPI) -> str:
    return openapi.dump(app)


@pytest.fixture(scope="module")
def document(current: str) -> dict[str, Any]:
    return dict(json.loads(current))


def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_the_committed_document_is_current(current: str) -> None:
    committed = openapi.FILE.read_text(encoding="utf-8")
    assert committed == current, "run `python -m api.openapi` and commit openapi.json"


def test_the_page_of_fields_is_current() -> None:
    committed = reference.FILE.read_text(encoding="utf-8")
    assert committed == reference.page(), "run `python -m api.openapi` and commit requests.md"


def test_every_field_of_a_request_is_described() -> None:
    rows = [
        line.strip("| ").split(" | ") for line in reference.page().splitlines() if "| `" in line
    ]
    described = {row[0].strip("`") for row in rows if len(row[-1]) > 10}
    for request in (QuantizeRequest, FinetuneRequest):
        assert set(request.model_fields) <= described
    assert {"training.epochs", "calibration.source", "hub_token"} <= described


def test_every_route_is_there(document: dict[str, Any]) -> None:
    assert {(method, path) for method, path, _ in operations(document)} == ROUTES


def test_every_operation_and_parameter_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        for parameter in operation.get("parameters", []):
            if parameter["name"] != "path":
                assert parameter.get("description"), f"{where}: {parameter['name']}"


def test_queries_are_checked_for_the_parameters_that_are_documented(
    app: FastAPI, document: dict[str, Any]
) -> None:
    for method, path, operation in operations(document):
        scope = {"type": "http", "app": app, "method": method.upper(), "path": path}
        known = parameters_of(scope)
        documented = [x["name"] for x in operation.get("parameters", []) if x["in"] == "query"]
        assert known is not None and sorted(known) == sorted(documented), f"{method} {path}"


def test_every_error_is_a_problem_with_an_example(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if status < "400":
                continue
            (media_type,) = response["content"]
            assert media_type == "application/problem+json", f"{method} {path}: {status}"
            content = response["content"][media_type]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for code, example in content["examples"].items():
                assert str(PROBLEMS[code][0]) == status
                assert example["value"]["code"] == code


def test_every_knob_is_in_the_schema_with_its_text(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def check(model: type[BaseModel], schema: dict[str, Any]) -> None:
        for name, field in model.model_fields.items():
            shown = schema["properties"][name]
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                check(kind, schemas[kind.__name__])
            else:
                assert shown["description"] == field.description

    check(QuantizeConfig, schemas["QuantizeRequest"])
    request = schemas["QuantizeRequest"]
    assert request["required"] == ["model"]
    assert [way["required"] for way in request["oneOf"]] == [["bits"], ["bits_per_weight"]]
    assert schemas["QuantizeRequest"]["additionalProperties"] is False


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(reference := node.get("$ref"), str):
                assert reference.removeprefix("#/components/schemas/") in schemas
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(document)


def test_the_docs_list_every_code() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [code for code in PROBLEMS if f"`{code}`" not in text] == []
    _, _, problems = text.partition("\n## Problems\n")
    of_jobs = raised("Infra", "apiq_core", "jobs", "worker") | raised("User", "apiq_core/finetune")
    assert {"checkpoint_lost", "worker_crashed", "diverged"} <= of_jobs
    assert {code for code in of_jobs if f"`{code}`" not in problems} == set()


def raised(kind: str, *folders: str) -> set[str]:
    """The codes of the errors of a kind, User or Infra, in the source of these folders."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    pattern = re.compile(rf"""\b{kind}Error\(\s*"(\w+)\"""")
    return {code for path in files for code in pattern.findall(path.read_text())}
