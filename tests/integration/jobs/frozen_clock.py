"""A database whose clock stands still until the test moves it."""

from typing import Any

from sqlalchemy import event, select

from jobs.clock import now
from jobs.database import Database

START_MS = 1_800_000_000_000


class FrozenClock:
    """Everything that reads `jobs.clock.now` through this database's engine reads `now_ms`.

    The moment is a row, and the SQL of `now()` is replaced on its way to the driver by a query of
    it: nothing global is patched, and the code under test is what runs in production.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now_ms = START_MS
        real = str(now().compile(dialect=database.engine.dialect))

        @event.listens_for(database.engine, "before_cursor_execute", retval=True)
        def _(
            connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any
        ) -> tuple[str, Any]:
            return statement.replace(real, "(SELECT now_ms FROM frozen_clock)"), parameters

        with database.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE frozen_clock (now_ms BIGINT NOT NULL)")
            connection.exec_driver_sql(f"INSERT INTO frozen_clock VALUES ({START_MS})")
            moment = connection.execute(select(now())).scalar_one()
        assert moment.timestamp() * 1000 == START_MS

    def set(self, now_ms: int) -> None:
        self.now_ms = now_ms
        with self._database.begin() as connection:
            connection.exec_driver_sql(f"UPDATE frozen_clock SET now_ms = {now_ms}")
