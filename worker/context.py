"""What every part of a worker works with."""

import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uuid_utils

from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.settings import Settings

NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")


def new_worker_id() -> str:
    """Names a worker for people; unique, so that a restarted one is another."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{str(uuid_utils.uuid4())[:8]}"


@dataclass(frozen=True)
class Worker:
    """One worker process."""

    settings: Settings
    database: Database
    store: ArtifactStore
    child_command: Sequence[str]  # of the process that runs an attempt
    worker_id: str = field(default_factory=new_worker_id)
    drain: threading.Event = field(default_factory=threading.Event)  # finish up, claim nothing
    busy: threading.Lock = field(default_factory=threading.Lock)  # held while it runs jobs

    @property
    def device_class(self) -> str:
        """Which jobs this worker may run beside those for any device; found without torch."""
        device = self.settings.device
        if device == "auto":
            has_gpu = NVIDIA_DEVICES.is_dir() and any(NVIDIA_DEVICES.iterdir())
            return "cuda" if has_gpu else "cpu"
        return device.partition(":")[0]
