"""Celery's file broker for one machine, made safe against half a message.

The transport of kombu writes a message in place, so that a reader can find it half written, and
the worker ends over what it cannot read. Here a message is written aside and renamed, and what
is no message is dropped: a message is only a doorbell, and idle workers look for themselves.
"""

import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import structlog
from kombu.transport import filesystem
from kombu.utils.json import dumps

log = structlog.get_logger(__name__)


class Channel(filesystem.Channel):
    """As kombu's, but whole messages only, and queues are found by their names alone."""

    def _queue_bind(self, *args: Any) -> None:
        """The default exchange needs no table, so none is written that could be read half."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        # read in the order of names: wall clock, so that a reboot does not turn it around
        name = f"{time.time_ns() // 1_000_000:015d}_{uuid.uuid4()}.{queue}.msg"
        target = os.path.join(_existing(self.data_folder_out), name)
        temporary = f"{target}.tmp"  # no queue's messages end like this
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(dumps(payload))  # type: ignore[no-untyped-call]
        os.replace(temporary, target)

    def _get(self, queue: str) -> Any:  # type: ignore[override]
        for name in sorted(os.listdir(_existing(self.data_folder_in))):
            if not name.endswith(f".{queue}.msg"):
                continue
            taken = Path(_existing(self.processed_folder)) / name
            with suppress(OSError):  # another reader was faster
                os.rename(os.path.join(self.data_folder_in, name), taken)
                if (message := _read(taken)) is not None:
                    return message
        raise Empty


class Transport(filesystem.Transport):
    """Named by `jobs.doorbell`."""

    Channel = Channel


def _existing(folder: str) -> str:
    os.makedirs(folder, exist_ok=True)
    return folder


def _read(path: Path) -> dict[str, Any] | None:
    try:
        message = json.loads(path.read_bytes())
    except ValueError:
        message = None
    if not isinstance(message, dict) or not {"body", "headers", "properties"} <= message.keys():
        log.warning("not_a_message", file=path.name)
        return None
    return message
