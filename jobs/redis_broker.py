"""Celery's Redis broker, made safe against messages that break and a server that ends.

A worker of kombu ends over the first message that it cannot read; and one whose server ended
between a message and its acknowledgement waits for ever for the permission to read the next.
Here both are dropped: a message is only a doorbell, and idle workers look for themselves.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)


class Channel(redis.Channel):
    """As kombu's, but what cannot be read is left out."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("not_a_message", error=repr(error))
            raise Empty from None  # as after a wait for nothing

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        try:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]
        except self.connection_errors as error:
            log.warning("not_acknowledged", error=repr(error))
            self.qos._quick_ack(delivery_tag)  # it counts as read, or nothing is read any more


class Transport(redis.Transport):
    """Named by `jobs.doorbell`."""

    Channel = Channel
