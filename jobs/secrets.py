"""Hub tokens of jobs: encrypted at rest, gone when the job ends (`jobs.rows` sees to that)."""

import base64
import hmac

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr
from sqlalchemy import Connection, insert, select

from apiq_core.errors import UserError
from jobs.schema import job_secrets
from jobs.settings import Settings


def derive(settings: Settings, purpose: str) -> bytes | None:
    """A key of 32 bytes for one purpose, from the server's secret; None without a secret."""
    if settings.secret_key is None:
        return None
    return hmac.digest(settings.secret_key.get_secret_value().encode(), purpose.encode(), "sha256")


def put(connection: Connection, job_id: str, token: SecretStr, settings: Settings) -> None:
    """Keep the token of a job that is accepted in this transaction."""
    sealed = _fernet(settings).encrypt(token.get_secret_value().encode()).decode()
    connection.execute(insert(job_secrets).values(job_id=job_id, hub_token=sealed))


def hub_token(connection: Connection, job_id: str, settings: Settings) -> str | None:
    """The token of a job that has one and has not ended.

    Raises `ValueError` if the secret key is not the one that it was encrypted with.
    """
    query = select(job_secrets.c.hub_token).where(job_secrets.c.job_id == job_id)
    sealed = connection.execute(query).scalar()
    if sealed is None:
        return None
    try:
        return _fernet(settings).decrypt(sealed).decode()
    except InvalidToken:
        raise ValueError("the hub token was encrypted with another secret_key") from None


def check_can_keep(settings: Settings) -> None:
    """Refuse a token where it could not be encrypted."""
    if settings.secret_key is None:
        raise UserError(
            "no_secret_key",
            "this server cannot keep a hub token: it has no APIQ_SECRET_KEY; leave hub_token out",
            param="hub_token",
        )


def _fernet(settings: Settings) -> Fernet:
    key = derive(settings, "hub tokens")
    if key is None:
        raise ValueError("there is a hub token, but no secret_key to read it with")
    return Fernet(base64.urlsafe_b64encode(key))
