"""How many jobs there are in which state."""

from sqlalchemy import Connection, func, select

from jobs.schema import jobs
from jobs.states import State


def by_state(connection: Connection) -> dict[State, int]:
    """States without a job are left out."""
    query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
    return {State(state): count for state, count in connection.execute(query)}
