"""`apiq finetune`."""

from typing import Annotated, Any

import typer

from apiq_client.commands import submit
from apiq_client.options import given_fields
from apiq_client.records import Job
from apiq_client.sdk import Client
from apiq_core.config import QuantizeOptions
from apiq_core.finetune.config import FinetuneConfig


@submit.command(FinetuneConfig, quantize=QuantizeOptions)
def finetune(
    client: Client,
    fields: dict[str, Any],
    base: Annotated[str, typer.Argument(help="A quantize job (job_...), or a model id.")],
    dataset: Annotated[str, typer.Argument(help="The rows to train on: ds_...")],
    *,
    validation: Annotated[
        str | None,
        typer.Option(help="What is held out: ds_..., instead of a share of DATASET."),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="2|3|4|8",
            help="Of a model: quantize it first, by a job of its own; with l4q, while it trains.",
        ),
    ] = None,
    bits_per_weight: Annotated[
        float | None, typer.Option(help="Instead of --bits: a budget for each weight.")
    ] = None,
) -> Job:
    """Submit a job that trains BASE on DATASET.

    What learns is its adapter, or with --method l4q its integers.

    With --bits BASE is a model, and the job waits for another one that quantizes it, as the
    --quantize-... options say.
    """
    own = {"validation": validation, "bits": bits, "bits_per_weight": bits_per_weight}
    return client.finetune(base, dataset, **given_fields(own), **fields)
