"""Brokers by their addresses alone."""

import inspect
import ssl
from pathlib import Path

import amqp
import pytest

from jobs import doorbell, redis_broker
from jobs.settings import Settings


@pytest.mark.parametrize("url", ["amqp://user:password@127.0.0.1:5673/apiq", "amqps://host"])
def test_rabbitmq_takes_our_options(tmp_path: Path, url: str) -> None:
    app = doorbell.app(Settings(data_dir=tmp_path, broker_url=url))
    connection = app.connection_for_write()
    assert connection.get_transport_cls().driver_name == "py-amqp"
    # its transport hands them on to amqp.Connection as they are
    assert (
        connection.transport_options.keys() <= inspect.signature(amqp.Connection).parameters.keys()
    )
    assert connection.connect_timeout == doorbell.TIMEOUT_S


@pytest.mark.parametrize(
    ("url", "certificate"),
    [
        ("redis://:password@host:6380/3", None),
        ("rediss://host/3", ssl.CERT_REQUIRED),
        ("rediss://host/3?ssl_cert_reqs=none", ssl.CERT_NONE),
    ],
)
def test_redis_is_read_by_our_transport(
    tmp_path: Path, url: str, certificate: ssl.VerifyMode | None
) -> None:
    app = doorbell.app(Settings(data_dir=tmp_path, broker_url=url))
    connection = app.connection_for_write()
    assert connection.get_transport_cls() is redis_broker.Transport
    assert (connection.hostname, connection.virtual_host) == ("host", "3")
    assert (connection.ssl or {}).get("ssl_cert_reqs") == certificate


def test_nobody_answers(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="amqp://127.0.0.1:9")
    doorbell.ring_queue(settings, "apiq-any")  # and the caller goes on
