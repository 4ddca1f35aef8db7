"""Run the API: `python -m api`."""

import argparse
import socket
import sys

import uvicorn

from api.app import create_app
from api.connection import connection_class
from api.hosts import is_loopback
from jobs.log_lines import log_lines
from jobs.settings import settings_or_exit

# open event streams would hold up a restart; their clients come back with Last-Event-ID
SHUTDOWN_WITHIN_S = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="api", description=__doc__)
    parser.add_argument("--fd", type=int, help="a listening socket that was inherited")
    arguments = parser.parse_args()
    settings = settings_or_exit()
    log_lines()
    if settings.secret_key is None and not is_loopback(settings.host):
        print(
            f"error: APIQ_HOST is {settings.host!r}; without APIQ_SECRET_KEY, so without API keys, "
            "the server binds to loopback only: 127.0.0.1, ::1 or localhost [host_not_loopback]",
            file=sys.stderr,
        )
        return 2
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http=connection_class(settings.client_timeout_s),
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_WITHIN_S,
        access_log=False,
    )
    sockets = [socket.socket(fileno=arguments.fd)] if arguments.fd is not None else None
    uvicorn.Server(config).run(sockets=sockets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
