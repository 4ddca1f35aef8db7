"""API keys: who may do what. A key is shown once; only an HMAC of it is stored.

apiq_ + 43 characters of randomness + 6 of a checksum, all of [A-Za-z0-9_-]
"""

import base64
import hmac
import re
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import uuid_utils
from sqlalchemy import Connection, RowMapping, insert, select, update

from jobs.clock import now
from jobs.schema import api_keys
from jobs.secrets import derive
from jobs.settings import Settings

PREFIX = "apiq_"
NAME_CHARACTERS = 100
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_KEY = re.compile(r"apiq_([A-Za-z0-9_-]{43})([A-Za-z0-9_-]{6})")


class Scope(StrEnum):
    JOBS_READ = "jobs:read"  # jobs, their events and logs; datasets' facts
    JOBS_WRITE = "jobs:write"  # submit, cancel, retry, delete; upload datasets
    ARTIFACTS_READ = "artifacts:read"
    ADMIN = "admin"  # everything, of every owner; metrics


DEFAULT_SCOPES = (Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.ARTIFACTS_READ)


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored: without the key."""

    id: str  # key_ + uuid7
    name: str  # what it is for
    owner: str  # whose jobs it sees; several keys may share an owner
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None


def create(
    connection: Connection, *, name: str, owner: str, scopes: Sequence[Scope], settings: Settings
) -> tuple[ApiKey, str]:
    """A new key and its text, which nobody can read again. Raises `ValueError`."""
    if OWNER.fullmatch(owner) is None:
        raise ValueError(
            f"owner is {owner[:80]!r}; legal: 1 to 64 of ASCII letters, digits, `_`, `.`, `@` and "
            "`-`, starting with a letter or digit"
        )
    if not 1 <= len(name) <= NAME_CHARACTERS or not name.isprintable():
        raise ValueError(
            f"name is {name[:80]!r}; legal: 1 to {NAME_CHARACTERS} printable characters"
        )
    text = _new_text()
    key = ApiKey(
        f"key_{uuid_utils.uuid7()}",
        name,
        owner,
        frozenset(scopes),
        datetime.now(UTC).replace(microsecond=0),
        None,
    )
    connection.execute(
        insert(api_keys).values(
            id=key.id,
            name=name,
            owner=owner,
            digest=_digest(text, settings),
            scopes=sorted(key.scopes),
            created_at=key.created_at,
        )
    )
    return key, text


def list_all(connection: Connection) -> list[ApiKey]:
    """The newest first, revoked ones too."""
    return [
        _from_row(row._mapping)
        for row in connection.execute(select(api_keys).order_by(api_keys.c.id.desc()))
    ]


def revoke(connection: Connection, key_id: str) -> bool:
    """End a key at once; false if there is no such key or it is revoked already."""
    valid = (api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    return connection.execute(update(api_keys).where(*valid).values(revoked_at=now())).rowcount == 1


def authenticate(connection: Connection, text: str, settings: Settings) -> ApiKey | None:
    """The key that was shown, unless it is none of ours or revoked."""
    match = _KEY.fullmatch(text)
    if match is None or not hmac.compare_digest(_checksum(match[1]), match[2]):
        return None  # mistyped or cut off: no need to ask the database
    query = select(api_keys).where(
        api_keys.c.digest == _digest(text, settings), api_keys.c.revoked_at.is_(None)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _from_row(row._mapping)


def _new_text() -> str:
    body = secrets.token_urlsafe(32)
    return f"{PREFIX}{body}{_checksum(body)}"


def _checksum(body: str) -> str:
    return base64.urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4)).decode()[:6]


def _digest(text: str, settings: Settings) -> str:
    pepper = derive(settings, "api keys")
    if pepper is None:
        raise ValueError("there are no API keys without a secret_key")
    return hmac.new(pepper, text.encode(), "sha256").hexdigest()


def _from_row(row: RowMapping) -> ApiKey:
    return ApiKey(
        row["id"],
        row["name"],
        row["owner"],
        frozenset(map(Scope, row["scopes"])),
        row["created_at"],
        row["revoked_at"],
    )
