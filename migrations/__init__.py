"""The one way the schema changes, on SQLite and PostgreSQL: `python -m migrations`."""
