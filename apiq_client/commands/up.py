"""`apiq up`: the whole service on this machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from apiq_client.supervise import Supervisor


def up(
    port: Annotated[
        int, typer.Option(envvar="APIQ_PORT", min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    data_dir: Annotated[
        Path,
        typer.Option(envvar="APIQ_DATA_DIR", help="Records, artifacts, uploads and logs."),
    ] = Path("apiq-data"),
) -> None:
    """Start the API and a worker; Ctrl-C or SIGTERM stops them."""
    host = os.environ.get("APIQ_HOST", "127.0.0.1")
    raise typer.Exit(Supervisor(data_dir.resolve(), host, port).run())
