"""Alembic's entry: run the migrations on the database of the settings."""

from alembic import context
from sqlalchemy import Connection

from jobs.database import LOCK_TIMEOUT_MS, Database
from jobs.schema import metadata
from jobs.settings import load_settings

TURNSTILE = 0x61706971  # any number, as long as every release has the same


def _one_at_a_time(connection: Connection) -> None:
    """Wait until no other process migrates; on SQLite the transaction itself is alone.

    For that wait there is no limit, for locks on tables that the service uses there is one.
    """
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TURNSTILE})")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")


def run() -> None:
    url = context.config.attributes.get("database_url") or load_settings().database_url
    database = Database(url, migrates=True)
    try:
        with database.begin() as connection:
            if database.is_postgresql:
                _one_at_a_time(connection)
            context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
            context.run_migrations()
    finally:
        database.dispose()


run()
