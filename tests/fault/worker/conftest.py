"""A service to break."""

import pytest

from jobs.database import Database
from jobs.settings import Settings
from tests.fault.worker.support import CHILD, House, house_of
from worker.context import Worker


@pytest.fixture
def house(settings: Settings, database: Database) -> House:
    return house_of(settings, database)


@pytest.fixture
def worker(house: House) -> Worker:
    """A worker in this process; its children are real processes."""
    return Worker(house.settings, house.database, house.store, CHILD)
