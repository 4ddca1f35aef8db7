"""Telling a worker that there is something to claim.

A message carries no work: it may be lost, come late or ring twice. The row is the job, and an idle
worker looks for one by itself now and then. So nobody rings for what only time sets free, as the
end of a pause does.
"""

import functools
import ssl
import time
from collections import Counter
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import structlog
from celery import Celery

from jobs.addresses import FILE_BROKER
from jobs.job import Job
from jobs.settings import Settings

RING = "apiq.ring"  # the name of the task
REDIS = ("redis://", "rediss://")
TIMEOUT_S = 2.0
MAX_WAITING = 10  # rings of one queue: that are not sent yet, and in the broker
PAUSE_S = 0.02  # between two rings

log = structlog.get_logger(__name__)


def queue_of(device_class: str) -> str:
    """The queue that wakes workers of a device class."""
    return f"apiq-{device_class}"


def ring(settings: Settings, job: Job) -> None:
    """Wake a worker that may run `job`. Best effort: never raises, never waits long."""
    ring_queue(settings, queue_of(job.device_class))


def ring_queue(settings: Settings, queue: str) -> None:
    """Wake a worker of a queue, as `ring` does. Where many rings wait, as while every worker is
    busy or none is there, one more would wake nobody: they must not pile up."""
    try:
        celery = app(settings)
        with celery.producer_or_acquire() as producer:
            declared = celery.amqp.queues[queue](producer.channel).queue_declare()
            if declared.message_count < MAX_WAITING:
                celery.send_task(RING, queue=queue, retry=False, producer=producer)
    except Exception as error:  # whatever a broker's client raises
        log.warning("doorbell_failed", queue=queue, error=repr(error))


class Bell:
    """Rings from a thread of its own: no request waits for a broker, even one that is away.

    Not for every job: a worker that wakes goes on until no job waits, and to send a message takes
    as long as to accept a job. After the last job of many a ring is still sent.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queues: SimpleQueue[str | None] = SimpleQueue()
        self._waiting: Counter[str] = Counter()  # how often each is in there
        self._lock = Lock()
        self._thread: Thread | None = None

    def start(self) -> None:
        self._thread = Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self, job: Job) -> None:
        """Wake a worker soon. Where many rings wait already, one more would wake nobody."""
        queue = queue_of(job.device_class)
        with self._lock:
            if self._waiting[queue] < MAX_WAITING:
                self._waiting[queue] += 1
                self._queues.put(queue)

    def stop(self) -> None:
        """Ring what waits, but not for long: idle workers look for themselves."""
        self._queues.put(None)
        if self._thread is not None:
            self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        while (queue := self._queues.get()) is not None:
            with self._lock:
                self._waiting[queue] -= 1  # before it is sent: who comes now is not too late
            ring_queue(self._settings, queue)
            time.sleep(PAUSE_S)


@functools.lru_cache(maxsize=8)
def app(settings: Settings) -> Celery:
    """The Celery application of these settings: JSON only, no results, acknowledged early.

    Early, because a lease decides who runs a job: a message that is delivered again after a
    long silence would only ring once more.
    """
    celery = Celery("apiq", set_as_current=False)
    celery.conf.update(
        broker_url=settings.broker_url,
        broker_connection_timeout=TIMEOUT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives any outage of its broker
        broker_transport_options=_transport_options(settings),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    if settings.broker_url == FILE_BROKER:
        celery.conf.broker_transport = "jobs.file_broker:Transport"
        celery.conf.broker_url = f"{FILE_BROKER}localhost"  # without a host kombu warns
    elif settings.broker_url.startswith(REDIS):
        celery.conf.broker_transport = "jobs.redis_broker:Transport"
        if settings.broker_url.startswith("rediss:") and "ssl_cert_reqs" not in settings.broker_url:
            celery.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return celery


def _transport_options(settings: Settings) -> dict[str, Any]:
    if settings.broker_url.startswith(REDIS):
        return {
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
            "max_retries": 0,  # of a ring; the consumer comes back for ever
        }
    if settings.broker_url != FILE_BROKER:
        return {}  # what is legal differs from transport to transport
    root = settings.broker_dir
    folders = {
        "data_folder_in": root / "queue",
        "data_folder_out": root / "queue",
        "control_folder": root / "control",
        "processed_folder": root / "processed",
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    # without store_processed a message is moved through /tmp, which may be another file system
    return {name: str(folder) for name, folder in folders.items()} | {
        "store_processed": True,
        "polling_interval": 0.2,
    }


def prune(settings: Settings) -> None:
    """Delete the messages that were read; nothing needs them any more."""
    if settings.broker_url == FILE_BROKER:
        for path in (settings.broker_dir / "processed").glob("*.msg"):
            with suppress(OSError):
                path.unlink()
