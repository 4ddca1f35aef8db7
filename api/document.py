"""The OpenAPI document, made from the code."""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.problems import PROBLEMS, Problem

DESCRIPTION = """\
Quantize language models with ApiQ: POST a model and a bit-width to `/jobs`, follow the job,
download a low-bit checkpoint and a LoRA adapter.

Every error is an `application/problem+json` document (RFC 9457) with a stable `code`.
"""

TAGS = [
    {"name": "jobs", "description": "Submit, follow and cancel."},
    {"name": "artifacts", "description": "What a succeeded job has published."},
    {"name": "datasets", "description": "Texts to calibrate on, rows to train on."},
    {"name": "service", "description": "Health, version, metrics."},
]


def install(app: FastAPI) -> None:
    """Have the app answer with our document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _make(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


# (path, method, status, parameter): what answers with an `id` that other calls take
SOURCES = (
    ("/jobs", "post", "202", "job_id"),
    ("/jobs/{job_id}/retry", "post", "202", "job_id"),
    ("/datasets", "post", "201", "dataset_id"),
)


def _make(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
    )
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    schemas |= schema.pop("$defs", {})
    schema["properties"]["code"]["description"] += " Known codes: " + ", ".join(sorted(PROBLEMS))
    schemas["Problem"] = schema
    # FastAPI adds an answer of its own wherever there are parameters; ours are problems
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for item in document["paths"].values():
        for operation in item.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for path, method, status, parameter in SOURCES:
        answer = document["paths"][path][method]["responses"][status]
        answer["links"] = dict(_links(document["paths"], parameter))
    return document


def _links(paths: dict[str, Any], parameter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A link to every call that needs this parameter only in its path."""
    for path, item in paths.items():
        if re.findall(r"{(\w+)}", path) != [parameter]:
            continue
        for operation in item.values():
            link = {
                "operationId": operation["operationId"],
                "description": operation["summary"],
                "parameters": {parameter: "$response.body#/id"},
            }
            yield operation["operationId"], link
