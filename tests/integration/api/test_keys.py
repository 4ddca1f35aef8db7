"""API keys on every route: the walk is over the app's own list, so a new route is in it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr

from jobs import keys
from jobs.keys import DEFAULT_SCOPES, Scope
from jobs.settings import Settings
from tests.integration.api.support import Service

OPEN = {"/healthz", "/readyz", "/version", "/docs", "/openapi.json"}
SECRET_KEY = "a secret of the server, 32 or more"
TEXT = b"some text to calibrate on " * 1000
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/jobs"): {"json": {"model": "tiny", "bits": 2}},
    ("post", "/datasets"): {"content": TEXT, "headers": {"content-type": "text/plain"}},
}
LISTS = {("get", "/jobs"): "jobs", ("get", "/datasets"): "datasets"}
# which key each route takes besides `admin`; a route that is not here takes no other
SCOPES = {
    Scope.JOBS_READ: {
        *(("get", path) for path in ("/jobs", "/jobs/{job_id}", "/jobs/{job_id}/events")),
        *(("get", path) for path in ("/jobs/{job_id}/logs", "/datasets")),
        ("get", "/datasets/{dataset_id}"),
        ("get", "/datasets/{dataset_id}/preview"),
    },
    Scope.JOBS_WRITE: {
        *(("post", f"/jobs{rest}") for rest in ("", "/{job_id}/cancel", "/{job_id}/retry")),
        ("post", "/datasets"),
        ("delete", "/jobs/{job_id}"),
        ("delete", "/datasets/{dataset_id}"),
    },
    Scope.ARTIFACTS_READ: {
        ("get", f"/jobs/{{job_id}}/artifacts{rest}") for rest in ("", ".tar", "/{path}")
    },
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr(SECRET_KEY)})


NewKey = Callable[..., str]


@pytest.fixture
def new_key(service: Service) -> NewKey:
    def make(owner: str, *scopes: Scope) -> str:
        with service.context.database.begin() as connection:
            _, text = keys.create(
                connection,
                name="test",
                owner=owner,
                scopes=scopes or DEFAULT_SCOPES,
                settings=service.context.settings,
            )
        return text

    return make


@dataclass
class Walk:
    """Calls each operation on things that are there and belong to `ada`."""

    service: Service
    key: str

    def call(self, method: str, path: str, key: str | None) -> httpx2.Response:
        """Fresh things each time: some calls end or delete them."""
        job_id = self._job(method, path)
        dataset_id = self._upload() if "dataset_id" in path else ""
        url = path.format(job_id=job_id, dataset_id=dataset_id, path="report.json")
        return self.send(method, url, key, **BODIES.get((method, path), {}))

    def send(self, method: str, url: str, key: str | None, **body: Any) -> httpx2.Response:
        headers = body.pop("headers", {})
        if key is not None:
            headers = headers | {"authorization": f"Bearer {key}"}
        # a download may be a redirect to the store, which is not this server
        request = self.service.http.request
        return request(method, url, headers=headers, follow_redirects=False, **body)

    def _job(self, method: str, path: str) -> str:
        if "{job_id}" not in path:
            return ""
        runs = not path.endswith(("/retry", "/cancel"))
        body = {"model": "tiny", "bits": 2, "priority": 100 if runs else 0}
        job_id = str(self.send("post", "/jobs", self.key, json=body).json()["id"])
        if path.endswith("/retry"):
            self.send("post", f"/jobs/{job_id}/cancel", self.key)
        if runs:
            self.service.publish(self.service.claim(), {"report.json": b"{}"})
        return job_id

    def _upload(self) -> str:
        answer = self.send("post", "/datasets", self.key, **BODIES["post", "/datasets"])
        return str(answer.json()["id"])


@pytest.fixture
def walk(service: Service, new_key: NewKey) -> Walk:
    return Walk(service, new_key("ada"))


def operations(service: Service) -> list[tuple[str, str]]:
    paths = service.app.openapi()["paths"]
    return [(method, path) for path, item in paths.items() for method in item]


def guarded(service: Service) -> list[tuple[str, str]]:
    found = [(method, path) for method, path in operations(service) if path not in OPEN]
    assert len(found) > 10
    return found


def scope_of(operation: tuple[str, str]) -> Scope:
    return next((scope for scope, routes in SCOPES.items() if operation in routes), Scope.ADMIN)


def test_what_is_open_is_known(service: Service) -> None:
    documented = {path for _, path in operations(service)}
    hidden = {
        re.sub(r":\w+}", "}", route.path)
        for route in service.app.routes
        if not (isinstance(route, APIRoute) and route.include_in_schema) and hasattr(route, "path")
    }
    docs = {"/docs", "/docs/oauth2-redirect", "/static-offline-docs", "/openapi.json"}
    assert hidden <= documented | docs
    for path in OPEN:
        assert service.http.get(path).status_code == 200, path
    answers = {
        path: service.http.request(method, path).status_code for method, path in operations(service)
    }
    assert {path for path, status in answers.items() if status == 200} == OPEN & documented


def test_no_key_and_no_valid_key(service: Service, walk: Walk, new_key: NewKey) -> None:
    revoked = new_key("ada", *Scope)
    with service.context.database.begin() as connection:
        assert keys.revoke(connection, keys.list_all(connection)[0].id)
    mistyped = walk.key[:-1] + ("A" if walk.key[-1] != "A" else "B")
    never_made = keys._new_text()
    bad = [None, "", "x", "apiq_", mistyped, never_made, revoked, "apiq_" + "é" * 49]
    for method, path in guarded(service):
        for key in bad:
            where = f"{method} {path} {key!r}"
            answer = walk.call(method, path, key if key is None or key.isascii() else None)
            problem = service.refused(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer", where
            assert not key or key not in str(problem), where
    basic = {"authorization": f"Basic {walk.key}"}
    service.refused(service.http.get("/jobs", headers=basic), 401, "unauthorized")


def test_each_scope_opens_its_routes_only(service: Service, walk: Walk, new_key: NewKey) -> None:
    by_scope = {scope: new_key("ada", scope) for scope in Scope}
    for operation in guarded(service):
        for scope, key in by_scope.items():
            answer = walk.call(*operation, key)
            if scope in (scope_of(operation), Scope.ADMIN):
                assert answer.status_code < 400, f"{operation} {scope}: {answer.text}"
            else:
                problem = service.refused(answer, 403, "scope_missing")
                assert problem["legal"] == scope_of(operation), operation


def test_what_others_have_does_not_exist(service: Service, walk: Walk, new_key: NewKey) -> None:
    other = new_key("bob")
    walk._job("get", "/jobs/{job_id}")
    walk._upload()
    open_to_all = [x for x in guarded(service) if scope_of(x) is not Scope.ADMIN]
    lists = [x for x in open_to_all if "{" not in x[1] and x[0] == "get"]
    assert lists == list(LISTS)
    for operation in lists:
        assert len(walk.call(*operation, walk.key).json()[LISTS[operation]]) == 1
        assert walk.call(*operation, other).json()[LISTS[operation]] == []
    for operation in open_to_all:
        if "{" in operation[1]:
            answer = walk.call(*operation, other)
            code = "job_not_found" if "job_id" in operation[1] else "dataset_not_found"
            service.refused(answer, 404, code)
    # a dataset of another owner cannot be read through a job either
    dataset_id = walk._upload()
    body = {"model": "tiny", "bits": 2, "calibration": {"source": f"dataset:{dataset_id}"}}
    answer = walk.send("post", "/jobs", other, json=body)
    service.refused(answer, 422, "unknown_source")
    # nor is it trained on, or a job of another owner
    own_id = Walk(service, other)._upload()
    base_id = walk.send("post", "/jobs", walk.key, json={"model": "tiny", "bits": 2}).json()["id"]
    for base, dataset, code in (
        ("tiny", dataset_id, "unknown_dataset"),
        (base_id, own_id, "base_not_found"),
    ):
        body = {"type": "finetune", "base": base, "dataset": dataset}
        service.refused(walk.send("post", "/jobs", other, json=body), 422, code)
    body = {"type": "finetune", "base": base_id, "dataset": dataset_id}
    assert walk.send("post", "/jobs", walk.key, json=body).status_code == 202


def test_several_keys_of_an_owner_and_admins(service: Service, walk: Walk, new_key: NewKey) -> None:
    job_id = walk._job("get", "/jobs/{job_id}")
    for key in (new_key("ada"), new_key("root", Scope.ADMIN)):
        answer = walk.send("get", "/jobs", key)
        assert [job["id"] for job in answer.json()["jobs"]] == [job_id]


def test_only_admins_are_told_where_everything_is(service: Service, new_key: NewKey) -> None:
    shown = {
        key: service.http.get("/readyz", headers={"authorization": f"Bearer {key}"})
        for key in ("apiq_none", new_key("ada"), new_key("root", Scope.ADMIN))
    }
    answers = [service.http.get("/readyz"), *shown.values()]
    assert [answer.json()["status"] for answer in answers] == ["ready"] * 4
    uses = [answer.json()["uses"] for answer in answers]
    assert uses[:3] == [{}] * 3
    assert uses[3]["artifacts"] == service.context.settings.artifacts_url


def test_a_server_without_secret_key_has_no_owners(
    service: Service, walk: Walk, settings: Settings
) -> None:
    before = walk._job("get", "/jobs/{job_id}")
    service.app.state.context = type(service.context)(
        settings.model_copy(update={"secret_key": None}),
        service.context.database,
        service.context.store,
    )
    assert service.http.get(f"/jobs/{before}").status_code == 200
    assert service.http.get("/metrics").status_code == 200


def test_a_key_is_stored_as_a_digest_only(service: Service, walk: Walk) -> None:
    with service.context.database.read() as connection:
        row = connection.exec_driver_sql("SELECT * FROM api_keys").one()
    assert walk.key[5:20] not in str(row)
    other = service.context.settings.model_copy(update={"secret_key": SecretStr(SECRET_KEY + "!")})
    with service.context.database.read() as connection:
        assert keys.authenticate(connection, walk.key, service.context.settings)
        assert keys.authenticate(connection, walk.key, other) is None


@pytest.mark.parametrize("field", ["owner", "name"])
@pytest.mark.parametrize("value", ["", "a\nb", "x" * 101])
def test_illegal_owners_and_names(service: Service, field: str, value: str) -> None:
    fields = {"owner": "ada", "name": "laptop"} | {field: value}
    with (
        pytest.raises(ValueError, match=f"{field} is .*; legal: 1 to"),
        service.context.database.begin() as connection,
    ):
        keys.create(connection, scopes=DEFAULT_SCOPES, settings=service.context.settings, **fields)
