"""Who calls, and what they may: `Authorization: Bearer apiq_...`.

A server without a secret key has no API keys: everybody who reaches it, over loopback only, may
do everything.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.exc import SQLAlchemyError

from api.context import context_of
from api.problems import ApiError
from jobs.keys import Scope


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request."""

    owner: str  # whom new jobs and datasets belong to; empty where there are no keys
    sees: str | None  # whose jobs and datasets exist for it; None: everybody's


class Require(SecurityBase):
    """A dependency that lets only keys with `scope` through; to OpenAPI, the scheme of all keys.

    It is one dependency and not a chain of small ones: FastAPI takes longer to resolve each than
    this takes to run.
    """

    scheme_name = "ApiKey"
    model = HTTPBearer(
        bearerFormat="apiq_...",
        description="Needed where the server has APIQ_SECRET_KEY; made by `apiq keys create`.",
    )

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        context = context_of(request)
        if context.settings.secret_key is None:
            return Caller("", None)
        kind, shown = get_authorization_scheme_param(request.headers.get("authorization"))
        if kind.lower() != "bearer" or not shown:
            raise _unauthorized("this server needs an API key: `Authorization: Bearer apiq_...`")
        key = await context.keyed.ask(shown)
        if key is None:
            raise _unauthorized("this API key is not known here, or it was revoked")
        if not key.scopes & {self.scope, Scope.ADMIN}:
            raise ApiError(
                "scope_missing",
                f"this key may {', '.join(sorted(key.scopes)) or 'nothing'}; needed: {self.scope}",
                legal=self.scope,
            )
        return Caller(key.owner, None if Scope.ADMIN in key.scopes else key.owner)


async def _is_admin(request: Request) -> bool:
    """Whether a call that needs no key comes from an administrator: without keys everybody is."""
    try:
        await Require(Scope.ADMIN)(request)
    except (ApiError, SQLAlchemyError):
        return False
    return True


def _unauthorized(detail: str) -> ApiError:
    return ApiError("unauthorized", detail, headers={"www-authenticate": "Bearer"})


JobsReader = Annotated[Caller, Depends(Require(Scope.JOBS_READ))]
JobsWriter = Annotated[Caller, Depends(Require(Scope.JOBS_WRITE))]
ArtifactsReader = Annotated[Caller, Depends(Require(Scope.ARTIFACTS_READ))]
Admin = Annotated[Caller, Depends(Require(Scope.ADMIN))]
IsAdmin = Annotated[bool, Depends(_is_admin)]
