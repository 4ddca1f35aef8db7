"""A store or a database that is away for a while costs no attempt: the same is tried again."""

from collections.abc import Callable
from typing import TypeVar

import stamina
from sqlalchemy.exc import OperationalError

from jobs.errors import StoreUnavailable
from jobs.settings import Settings

PATIENCE_S = 120.0  # with a store: the work behind the files took longer, or will

T = TypeVar("T")


def with_store(call: Callable[[], T], check: Callable[[], None]) -> T:
    """What `call` returns. `check` is called before each try and may raise."""
    for attempt in stamina.retry_context(on=StoreUnavailable, attempts=None, timeout=PATIENCE_S):
        with attempt:
            check()
            return call()
    raise AssertionError("the last of the retries raises")


def with_database(transaction: Callable[[], T], settings: Settings) -> T:
    """What a whole transaction returns, tried as long as a lease may last."""
    for attempt in stamina.retry_context(
        on=OperationalError, attempts=None, timeout=settings.lease_ttl_s
    ):
        with attempt:
            return transaction()
    raise AssertionError("the last of the retries raises")
