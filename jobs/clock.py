"""The database's clock, and how a moment is stored: the one place where dialects differ.

Leases are only ever compared with the clock of the database, so the clocks of workers do not
matter. A moment is stored as milliseconds since 1970 in both dialects and read as an aware
datetime in UTC.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Dialect, TypeDecorator, type_coerce
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction


class Timestamp(TypeDecorator[datetime]):
    """An aware datetime in UTC, stored as milliseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else round(value.timestamp() * 1000)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC)


class now(GenericFunction[datetime]):
    """This moment on the database's clock: not the start of the transaction."""

    name = "apiq_now"
    type = Timestamp()
    inherit_cache = True


@compiles(now, "sqlite")
def _(element: now, compiler: Any, **kw: Any) -> str:
    return "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


@compiles(now, "postgresql")
def _(element: now, compiler: Any, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


def from_now(seconds: float) -> ColumnElement[datetime]:
    """A moment relative to the database's clock; negative for the past."""
    return type_coerce(type_coerce(now(), BigInteger) + round(seconds * 1000), Timestamp())
