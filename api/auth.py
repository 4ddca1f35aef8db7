"""Who calls, and what they may: `Authorization: Bearer apiq_...`.

A server without a secret key has no API keys: everybody who reaches it, over loopback only, may
do everything.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from api.context import Context, Ctx
from api.problems import ApiError
from jobs import keys
from jobs.keys import ApiKey, Scope

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="apiq_...",
    description="Needed where the server has APIQ_SECRET_KEY; made by `apiq keys create`.",
)


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request."""

    owner: str  # whom new jobs and datasets belong to; empty where there are no keys
    sees: str | None  # whose jobs and datasets exist for it; None: everybody's


def require(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets only keys with `scope` through."""

    async def check(
        context: Ctx, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        if context.settings.secret_key is None:
            return Caller("", None)
        if shown is None:
            raise _unauthorized("this server needs an API key: `Authorization: Bearer apiq_...`")
        key = await run_in_threadpool(_authenticate, context, shown.credentials)
        if key is None:
            raise _unauthorized("this API key is not known here, or it was revoked")
        if not key.scopes & {scope, Scope.ADMIN}:
            raise ApiError(
                "scope_missing",
                f"this key may {', '.join(sorted(key.scopes)) or 'nothing'}; needed: {scope}",
                legal=scope,
            )
        return Caller(key.owner, None if Scope.ADMIN in key.scopes else key.owner)

    return check


def _authenticate(context: Context, text: str) -> ApiKey | None:
    with context.database.read() as connection:
        return keys.authenticate(connection, text, context.settings)


def _unauthorized(detail: str) -> ApiError:
    return ApiError("unauthorized", detail, headers={"www-authenticate": "Bearer"})


JobsReader = Annotated[Caller, Depends(require(Scope.JOBS_READ))]
JobsWriter = Annotated[Caller, Depends(require(Scope.JOBS_WRITE))]
ArtifactsReader = Annotated[Caller, Depends(require(Scope.ARTIFACTS_READ))]
Admin = Annotated[Caller, Depends(require(Scope.ADMIN))]
