"""What a database holds open, on both columns."""

import sqlite3

import psycopg
import pytest

from jobs.database import Database


def test_a_connection_in_use_is_closed_when_it_comes_back_to_a_disposed_database(
    database: Database,
) -> None:
    with database.begin() as connection:
        held = connection.connection.driver_connection
        assert held is not None
        database.dispose()
        held.execute("SELECT 1")
    with pytest.raises((psycopg.OperationalError, sqlite3.ProgrammingError), match="closed"):
        held.execute("SELECT 1")
