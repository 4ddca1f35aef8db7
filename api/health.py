"""Is it there, is it ready, which version, how is it doing."""

import platform
from importlib.metadata import version
from typing import Literal
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import make_url

from api.auth import IsAdmin
from api.context import Ctx
from api.problems import responses
from jobs import hub
from jobs.addresses import FILE_BROKER
from jobs.settings import Settings

router = APIRouter(tags=["service"])


class Health(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ready"]
    uses: dict[str, str] = Field(
        description="What each part uses, without secrets. Empty on a server with API keys, "
        "unless the call has one with scope `admin`.",
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
async def readyz(context: Ctx, is_admin: IsAdmin) -> Ready:
    """Asks the database, and at most every 5 s whether the artifact store takes writes."""
    await context.ready.ask(None)
    return Ready(status="ready", uses=_uses(context.settings) if is_admin else {})


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
