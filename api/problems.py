"""Every error of the service as an RFC 9457 problem with a stable `code`.

    ApiError                the face refuses (a header, a range, a media type)
    jobs.errors.JobError    the records refuse (no such job, not finished)
    ApiQError               the core refuses (the model, the config, a text)
    SQLAlchemyError         the database is away, locked or full
    OSError                 the artifact store is, or a disk
    RequestValidationError  the body or a parameter does not fit its schema
    HTTPException           the router refuses (no such path, no such method)

all end here; anything else is a bug, logged and shown as `internal_error`.
"""

import errno
import json
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from api.validation import FieldError, describe, model_in, pointer_to, quoted
from apiq_core.errors import ApiQError
from apiq_core.finetune.data.read import BadRows
from jobs.database import is_away, is_full
from jobs.errors import JobError, StoreUnavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5  # what a 503 asks for: most outages are restarts
MAX_FIELD_ERRORS = 20  # a body can have thousands
TYPE_PREFIX = "urn:apiq:problem:"

log = structlog.get_logger(__name__)

# code -> (status, title). Every code that the face, the records or the core's checks raise is here
# and in docs/reference/http.md (tests/contract/test_codes.py).
PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed_json": (400, "The body is not JSON"),
    "bad_request": (400, "The request cannot be understood"),
    "unauthorized": (401, "An API key is needed"),
    "scope_missing": (403, "The API key may not do this"),
    "origin_not_allowed": (403, "Another's web page may not call this server"),
    "not_found": (404, "There is nothing at this path"),
    "job_not_found": (404, "There is no such job"),
    "dataset_not_found": (404, "There is no such dataset"),
    "artifact_not_found": (404, "The job has no such artifact"),
    "method_not_allowed": (405, "This path does not take this method"),
    "request_too_slow": (408, "The request did not arrive"),
    "job_not_finished": (409, "The job has not ended, or made no artifacts"),
    "base_not_finished": (409, "The base has not ended yet"),
    "job_in_use": (409, "A job that has not ended trains on what this one made"),
    "job_not_retryable": (409, "There is nothing to repeat"),
    "idempotency_key_reused": (409, "Another request used this idempotency key"),
    "job_already_finished": (409, "The job has ended already"),
    "dataset_in_use": (409, "A job that has not ended uses this dataset"),
    "body_too_large": (413, "The body is too large"),
    "dataset_too_large": (413, "The dataset is too large"),
    "unsupported_media_type": (415, "The body has the wrong media type"),
    "range_not_satisfiable": (416, "The range lies outside of the file"),
    "host_not_allowed": (421, "The server does not go by this name"),
    "invalid_request": (422, "A field of the request is not legal"),
    "illegal_model_id": (422, "This cannot be the id of a model"),
    "model_not_found": (422, "There is no such model"),
    "revision_not_found": (422, "The model has no such revision"),
    "model_gated": (422, "The model is gated"),
    "model_changed": (422, "The model is no longer what was asked for"),
    "model_outside": (422, "The model leads out of the models directory"),
    "missing_config": (422, "The model has no config.json"),
    "corrupt_config": (422, "The model's config.json cannot be read"),
    "missing_tokenizer": (422, "The model has no tokenizer"),
    "missing_weights": (422, "The model has no weights"),
    "missing_file": (422, "The model lacks a file"),
    "pickle_weights": (422, "The model has only pickle weights"),
    "corrupt_weights": (422, "The model's weights cannot be read"),
    "unsupported_dtype": (422, "The model's weights have a type that is not supported"),
    "remote_code": (422, "The model needs code of its own"),
    "unsupported_architecture": (422, "The model's architecture is not supported"),
    "already_quantized": (422, "The model is quantized already"),
    "illegal_method": (422, "A budget needs another method"),
    "illegal_bits": (422, "The method has no such bits"),
    "illegal_group_size": (422, "A budget needs other groups"),
    "illegal_format": (422, "The method cannot write this format"),
    "group_size_does_not_divide": (422, "The group size does not fit the model"),
    "layer_not_packable": (422, "A layer does not fit the packing"),
    "rank_too_large": (422, "The rank does not fit the model"),
    "illegal_rank": (422, "There is no rank to choose"),
    "no_adapter": (422, "The method has no adapter"),
    "illegal_adapter": (422, "There is no such adapter to choose"),
    "budget_too_small": (422, "The budget holds no plan"),
    "illegal_recipe": (422, "The method has no such recipe"),
    "no_gradient_phase": (422, "The method trains nothing"),
    "no_rounding": (422, "The method does not train the rounding"),
    "length_exceeds_context": (422, "The windows are longer than the model's context"),
    "too_little_text": (422, "The text is too short for the windows asked for"),
    "too_little_data": (422, "The dataset has too few rows to divide"),
    "unknown_source": (422, "There is no such text"),
    "unknown_dataset": (422, "There is no such dataset"),
    "base_not_found": (422, "There is no such base"),
    "base_not_ready": (422, "The base has not succeeded, and never will"),
    "illegal_base": (422, "The method cannot train this base"),
    "illegal_revision": (422, "A job has no revisions"),
    "empty_dataset": (422, "The dataset is empty"),
    "wrong_dataset_kind": (422, "The dataset is of another kind"),
    "not_utf8": (422, "The dataset is not UTF-8 text"),
    "bad_rows": (422, "The dataset has lines that are no rows"),
    "corrupt_tokenizer": (422, "The model's tokenizer cannot be read"),
    "tokenizer_too_large": (422, "The model's tokenizer is too large"),
    "tokenizer_fails": (422, "The model's tokenizer cannot read the dataset"),
    "no_chat_template": (422, "The model has no chat template"),
    "unusable_chat_template": (
        422,
        "The model's chat template does not show which part is the assistant's",
    ),
    "chat_template_refuses": (422, "The model's chat template refuses a row"),
    "hub_dataset_not_found": (422, "The hub has no such dataset"),
    "hub_dataset_gated": (422, "The dataset is gated"),
    "hub_split_not_found": (422, "The dataset has no such split"),
    "hub_files_unsupported": (422, "The dataset has no files that can be read"),
    "no_secret_key": (422, "The server keeps no secrets"),
    "quota_exceeded": (429, "This owner has as much as is allowed"),
    "internal_error": (500, "The service failed"),
    "database_unavailable": (503, "The database does not answer"),
    "hub_unreachable": (503, "The hub does not answer"),
    "disk_full": (503, "The disk is full"),
    "not_ready": (503, "The service is not ready"),
}


# what any call may be answered with, before its route sees it
ALWAYS = (
    "request_too_slow",
    "body_too_large",
    "host_not_allowed",
    "origin_not_allowed",
    "invalid_request",
)


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(examples=[TYPE_PREFIX + "invalid_request"])
    title: str = Field(description="The kind of problem; the same for every one of its code.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="This very problem, for a person to act on.")
    code: str = Field(description="Stable and machine readable.", examples=["invalid_request"])
    fault: str = Field(
        description="`user`: the request must change. `infra`, `service`: it may work later."
    )
    retryable: bool = Field(description="Whether the same request can succeed later.")
    errors: list[FieldError] = Field(default=[], description="Which fields, if it is about fields.")
    value: Any = Field(None, description="The offending value, if there is one.")
    legal: Any = Field(None, description="What would have been accepted, if that can be listed.")


class ApiError(Exception):
    """The face refuses a request; `code` is one of PROBLEMS."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        pointer: str | None = None,
        value: Any = None,
        legal: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.pointer = pointer
        self.value = value
        self.legal = legal
        self.headers = dict(headers or {})


def problem_response(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    errors: Sequence[FieldError] = (),
    value: Any = None,
    legal: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The one place where a problem becomes bytes."""
    known_status, title = PROBLEMS.get(code, (422, code.replace("_", " ")))
    status = status or known_status
    problem = Problem(
        type=TYPE_PREFIX + code,
        title=title,
        status=status,
        detail=detail,
        code=code,
        fault="user" if status < 500 else "service" if status == 500 else "infra",
        retryable=_is_retryable(code, status),
        errors=list(errors),
        value=value,
        legal=legal,
    )
    # ASCII: what a client sent and we quote may hold half a surrogate pair
    body = json.dumps(problem.model_dump(exclude_none=True), default=str).encode("ascii")
    retry_after = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}
    return Response(body, status, headers=retry_after | dict(headers or {}), media_type=MEDIA_TYPE)


def _is_retryable(code: str, status: int) -> bool:
    return status >= 500 or status == 429 or code == "base_not_finished"


def install(app: FastAPI) -> None:
    """Map every error of the service to a problem."""

    @app.exception_handler(ApiError)
    async def _(request: Request, error: ApiError) -> Response:
        errors = [_field_error(error.pointer, error.detail, error)] if error.pointer else []
        return problem_response(
            error.code,
            error.detail,
            errors=errors,
            value=error.value,
            legal=error.legal,
            headers=error.headers,
        )

    @app.exception_handler(JobError)
    async def _(request: Request, error: JobError) -> Response:
        return problem_response(error.code, error.message, status=error.http_status)

    @app.exception_handler(ApiQError)
    async def _(request: Request, error: ApiQError) -> Response:
        at = pointer_to(error.param) if error.param else None
        errors = [_field_error(at, error.message, error)] if at else []
        return problem_response(
            error.code,
            error.message,
            status=None if error.fault == "user" else 503,
            errors=errors,
            value=error.value,
            legal=error.legal,
        )

    @app.exception_handler(BadRows)
    async def _(request: Request, error: BadRows) -> Response:
        errors = [FieldError(pointer=x.place, detail=x.reason) for x in error.problems]
        return problem_response(error.code, error.message, errors=errors)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        entries = error.errors()
        if entries and entries[0]["type"] == "json_invalid":
            reason = (entries[0].get("ctx") or {}).get("error", "").removesuffix(" at")
            return problem_response(
                "malformed_json", f"the body is not JSON: {reason} at byte {entries[0]['loc'][-1]}"
            )
        # of the jobs that can be asked for the body chooses one: then there is no model here
        body = getattr(request.scope.get("route"), "body_field", None)
        root = None if body is None else model_in(body.field_info.annotation)
        found = [describe(entry, root) for entry in entries[:MAX_FIELD_ERRORS]]
        fields = list({(field.pointer, field.detail): field for field in found}.values())
        detail = "; ".join(field.detail for field in fields)
        return problem_response("invalid_request", detail, errors=fields)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404:
            return problem_response("not_found", f"there is nothing at {quoted(path)}; see /docs")
        if error.status_code == 405:
            allowed = _methods_at(request)
            return problem_response(
                "method_not_allowed",
                f"{quoted(path)} does not take {quoted(request.method)}; legal: {allowed}",
                headers={"allow": allowed},
            )
        if error.status_code == 408:
            return problem_response(
                "request_too_slow", error.detail, headers={"connection": "close"}
            )
        if error.status_code == 413:
            return problem_response("body_too_large", error.detail, headers={"connection": "close"})
        if error.status_code == 400 and "parsing the body" in str(error.detail):
            return problem_response(
                "malformed_json",
                "the body cannot be read; legal: JSON in UTF-8, not compressed, without deep "
                "nesting and numbers of thousands of digits",
            )
        return problem_response(
            "bad_request", str(error.detail), status=error.status_code, headers=error.headers
        )

    @app.exception_handler(OSError)
    async def _(request: Request, error: OSError) -> Response:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return problem_response("disk_full", "the server's disk is full; nothing was kept")
        if isinstance(error, StoreUnavailable):
            return problem_response("not_ready", f"the artifact store: {error}")
        raise error

    @app.exception_handler(SQLAlchemyError)
    async def _(request: Request, error: SQLAlchemyError) -> Response:
        if is_full(error):
            return problem_response("disk_full", "the disk of the database is full")
        if not is_away(error):
            raise error
        # not its words: they may tell where the database is
        log.warning("database_unavailable", path=request.url.path, error=repr(error)[:300])
        return problem_response(
            "database_unavailable",
            "the database is away or busy; a job that was sent with an Idempotency-Key can be "
            "sent again without making a second one",
        )

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        log.error("request_failed", path=request.url.path, exc_info=error)
        return problem_response("internal_error", "the service failed; its log says why")


def _field_error(pointer: str, detail: str, error: ApiError | ApiQError) -> FieldError:
    return FieldError(pointer=pointer, detail=detail, value=error.value, legal=error.legal)


def _methods_at(request: Request) -> str:
    """Of every route at this path; the router's own answer knows the first of them only."""
    methods = {
        method
        for method in ("GET", "POST", "DELETE")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def keyed(
    *codes: str, beside: Mapping[int | str, dict[str, Any]] | None = None
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may need an API key, so of one that asks the database."""
    return responses("unauthorized", "scope_missing", *codes, "database_unavailable", beside=beside)


def responses(
    *codes: str, beside: Mapping[int | str, dict[str, Any]] | None = None
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route, for its OpenAPI: one entry a status, one example a code.

    `beside` describes its successes.
    """
    by_status: dict[int | str, dict[str, Any]] = dict(beside or {})
    codes = (*codes, *(code for code in ALWAYS if code not in codes))
    for code in codes:
        status, title = PROBLEMS[code]
        same = [f"`{other}`" for other in codes if PROBLEMS[other][0] == status]
        entry = by_status.setdefault(
            status,
            {
                "description": "One of: " + ", ".join(same),
                "content": {
                    MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
                },
            },
        )
        if status == 503:
            entry["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which to try again.",
                    "schema": {"type": "integer", "example": RETRY_AFTER_S},
                }
            }
        entry["content"][MEDIA_TYPE]["examples"][code] = {
            "summary": title,
            "value": {
                "type": TYPE_PREFIX + code,
                "title": title,
                "status": status,
                "detail": title,
                "code": code,
                "fault": "user" if status < 500 else "infra",
                "retryable": _is_retryable(code, status),
            },
        }
    return by_status
