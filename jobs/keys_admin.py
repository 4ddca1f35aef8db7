"""Make, list and revoke API keys: `python -m jobs.keys_admin`. People use `apiq keys`.

Works on the records that the APIQ_... settings name; prints JSON, or one line about an error.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from jobs import keys
from jobs.database import Database
from jobs.keys import DEFAULT_SCOPES, ApiKey, Scope
from jobs.settings import Settings, settings_or_exit

NEW_SECRET = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Refused(Exception):
    """Why it cannot be done: a code and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")


def main() -> int:
    parser = argparse.ArgumentParser(prog="jobs.keys_admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create")
    create.add_argument("--owner", required=True)
    create.add_argument("--name", required=True)
    create.add_argument("--scope", action="append")
    commands.add_parser("list")
    commands.add_parser("revoke").add_argument("key_id")
    try:
        print(json.dumps(_run(parser.parse_args())))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = settings_or_exit()
    if settings.secret_key is None:
        raise Refused(
            "no_secret_key",
            "API keys need APIQ_SECRET_KEY, the same one that the server has; "
            f"`{NEW_SECRET}` makes one",
        )
    database = _open(settings)
    try:
        with database.begin() as connection:
            if arguments.command == "create":
                scopes = _scopes(arguments.scope)
                key, text = keys.create(
                    connection,
                    name=arguments.name,
                    owner=arguments.owner,
                    scopes=scopes,
                    settings=settings,
                )
                return _view(key) | {"key": text}
            if arguments.command == "list":
                return {"keys": [_view(key) for key in keys.list_all(connection)]}
            if not keys.revoke(connection, arguments.key_id):
                raise Refused(
                    "key_not_found",
                    f"there is no key {arguments.key_id[:80]!r}, or it is revoked already; "
                    "see `apiq keys list`",
                )
            return {"id": arguments.key_id}
    except ValueError as error:
        raise Refused("illegal_key", str(error)) from None
    except (OperationalError, ProgrammingError) as error:
        raise _unusable(settings, str(error.orig).splitlines()[0]) from None
    finally:
        database.dispose()


def _open(settings: Settings) -> Database:
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise _unusable(settings, "it is not there")  # to connect would make an empty one
    return Database(settings.database_url)


def _unusable(settings: Settings, reason: str) -> Refused:
    shown = make_url(settings.database_url).render_as_string(hide_password=True)
    return Refused(
        "no_database",
        f"the database {shown} cannot be used: {reason}; start the server once, or name the "
        "server's with --data-dir or APIQ_DATABASE_URL",
    )


def _scopes(names: list[str] | None) -> list[Scope]:
    if not names:
        return list(DEFAULT_SCOPES)
    for name in names:
        if name not in set(Scope):
            raise ValueError(f"scope is {name[:80]!r}; legal: {', '.join(Scope)}")
    return [Scope(name) for name in names]


def _view(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at.isoformat(),
        "revoked_at": None if key.revoked_at is None else key.revoked_at.isoformat(),
    }


if __name__ == "__main__":
    sys.exit(main())
