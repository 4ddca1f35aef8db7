"""What the addresses among the settings may look like.

Each check returns the address or raises a `ValueError` that shows no more of it than its scheme:
it may hold a password.
"""

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote, urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

# each PostgreSQL spelling means the psycopg driver
DATABASES = ("sqlite", "postgresql", "postgres", "postgresql+psycopg")
FILE_BROKER = "filesystem://"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
KEY = re.compile(rf"{PART}(/{PART})*")  # of an object; a prefix is one too


def check_database(url: str) -> str:
    """`postgresql://user:password@host/name` or `sqlite:///file`."""
    legal = "sqlite:///file, postgresql://user:password@host/name"
    _check_scheme(url, DATABASES, legal)
    try:
        has_name = bool(make_url(url).database)
    except (ArgumentError, ValueError):  # a port that is no number, for one
        has_name = False
    if not has_name:
        raise ValueError(f"is not the address of a database; legal: {legal}")
    return url


def check_broker(url: str) -> str:
    """Anything that Celery knows."""
    if url != FILE_BROKER:
        from kombu.transport import TRANSPORT_ALIASES  # not for who needs no broker

        _check_scheme(url, TRANSPORT_ALIASES, "redis://host:6379/0, amqp://host, filesystem://")
    return url


def check_artifacts(url: str) -> str:
    """`s3://bucket/prefix` or `file:///directory`."""
    legal = "file:///directory, s3://bucket/prefix"
    parts = _check_scheme(url, ("file", "s3"), legal)
    prefix = unquote(parts.path).strip("/")
    if parts.scheme == "file":
        is_legal = not parts.netloc and bool(prefix)
    else:
        is_legal = bool(BUCKET.fullmatch(parts.netloc)) and not parts.query
        is_legal = is_legal and (not prefix or bool(KEY.fullmatch(prefix)))
    if not is_legal:
        raise ValueError(f"is not the address of an artifact store; legal: {legal}")
    return url


def check_public(url: str) -> str:
    """`https://host`, or nothing."""
    if url and not _check_scheme(url, ("http", "https"), "https://host").hostname:
        raise ValueError("is not the address of a server; legal: https://host")
    return url


def _check_scheme(url: str, schemes: Iterable[str], legal: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # its words may quote the address
        parts = SplitResult("", "", "", "", "")
    if "://" not in url or not parts.scheme:
        raise ValueError(f"is not a URL; legal: {legal}")
    if parts.scheme.partition("+")[0] not in schemes and parts.scheme not in schemes:
        raise ValueError(f"begins with {parts.scheme[:40]!r}; legal: {legal}")
    return parts
