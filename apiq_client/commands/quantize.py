"""`apiq quantize`."""

from typing import Annotated, Any

import typer

from apiq_client.commands import submit
from apiq_client.records import Job
from apiq_client.sdk import Client
from apiq_core.config import QuantizeConfig


@submit.command(QuantizeConfig)
def quantize(
    client: Client,
    fields: dict[str, Any],
    model: Annotated[
        str, typer.Argument(help="`name` or `org/name`: of the server's models, or of the hub.")
    ],
) -> Job:
    """Submit a job that quantizes MODEL."""
    if ("bits" in fields) == ("bits_per_weight" in fields):
        raise typer.BadParameter("give exactly one of --bits and --bits-per-weight")
    return client.quantize(model, **fields)
