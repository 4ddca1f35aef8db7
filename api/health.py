"""Is it there, is it ready, which version, how is it doing."""

import platform
from importlib.metadata import version
from typing import Literal
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from api.context import Ctx
from api.problems import ApiError, responses
from jobs import hub, repository
from jobs.addresses import FILE_BROKER
from jobs.settings import Settings

router = APIRouter(tags=["service"])


class Health(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ready"]
    uses: dict[str, str] = Field(
        description="What each part uses, without secrets.",
        examples=[{"database": "sqlite:////var/lib/apiq/apiq.db"}],
    )


class Version(BaseModel):
    version: str = Field(examples=["0.1.0"])
    python: str = Field(examples=["3.11.4"])


@router.get("/healthz", summary="Is the process alive", responses=responses())
async def healthz() -> Health:
    """Says nothing about what it depends on: see /readyz."""
    return Health(status="ok")


@router.get("/readyz", summary="Can jobs be accepted", responses=responses("not_ready"))
def readyz(context: Ctx) -> Ready:
    """Asks the database and writes to the artifact store."""
    try:
        with context.database.read() as connection:
            repository.list_jobs(connection, limit=1)
    except SQLAlchemyError as error:
        raise ApiError("not_ready", f"the database: {str(error).splitlines()[0]}") from error
    try:
        context.store.check()
    except OSError as error:
        raise ApiError("not_ready", f"the artifact store: {error}") from error
    return Ready(status="ready", uses=_uses(context.settings))


@router.get("/version", summary="Which version is this", responses=responses())
def get_version() -> Version:
    """Of the service and of its Python."""
    return Version(version=version("apiq"), python=platform.python_version())


def _uses(settings: Settings) -> dict[str, str]:
    """Addresses as a person reads them; passwords are blanked out."""
    return {
        "database": make_url(settings.database_url).render_as_string(hide_password=True),
        "artifacts": _without_secrets(settings.artifacts_url),
        "broker": (
            f"files in {settings.broker_dir}"
            if settings.broker_url == FILE_BROKER
            else _without_secrets(settings.broker_url)
        ),
        "models": str(settings.models_dir),
        "hub": hub.endpoint(),
        "device": settings.device,
    }


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"***@{parts.hostname}:{parts.port or ''}").geturl()
