"""Errors that no client can provoke here, through the handlers that every app has."""

import errno

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api import problems
from apiq_core.errors import InfraError, UserError


@pytest.mark.parametrize(
    ("error", "status", "code", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 503, "disk_full", "infra"),
        (OSError(errno.EIO, "Input/output error"), 500, "internal_error", "service"),
        (InfraError("hub_unreachable", "the hub is away"), 503, "hub_unreachable", "infra"),
        (InfraError("new_code", "a code of tomorrow"), 503, "new_code", "infra"),
        (UserError("new_code", "a code of tomorrow", param="a.b"), 422, "new_code", "user"),
        (ZeroDivisionError("secret"), 500, "internal_error", "service"),
    ],
)
def test_what_becomes_of_an_error(error: Exception, status: int, code: str, fault: str) -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def fail() -> None:
        raise error

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == status
    problem = answer.json()
    assert (problem["code"], problem["fault"]) == (code, fault)
    assert problem["retryable"] == (status >= 500)
    assert "secret" not in answer.text
    if code == "new_code" and status == 422:
        assert problem["errors"][0]["pointer"] == "#/a/b"
