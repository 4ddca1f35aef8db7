"""`apiq finetune`."""

from typing import Annotated, Any

import typer

from apiq_client.commands import submit
from apiq_client.options import with_options_of
from apiq_client.sdk import Client
from apiq_core.finetune.config import FinetuneConfig


@with_options_of(FinetuneConfig)
def finetune(
    base: Annotated[
        str, typer.Argument(help="A quantize job that has succeeded (job_...), or a model id.")
    ],
    dataset: Annotated[str, typer.Argument(help="The rows to train on: ds_...")],
    *,
    validation: Annotated[
        str | None,
        typer.Option(help="What is held out: ds_..., instead of a share of DATASET."),
    ] = None,
    revision: submit.Revision = None,
    label: submit.Labels = None,
    priority: submit.Priority = None,
    device_class: submit.DeviceClass = None,
    max_pending_s: submit.MaxPending = None,
    max_runtime_s: submit.MaxRuntime = None,
    hub_token_from_env: submit.HubTokenFromEnv = None,
    wait: submit.Wait = False,
    download: submit.Download = None,
    json: submit.AsJson = False,
    **config: Any,
) -> None:
    """Submit a job that trains the adapter of BASE on DATASET."""
    fields = submit.fields_of(
        config,
        label,
        hub_token_from_env,
        validation=validation,
        revision=revision,
        priority=priority,
        device_class=device_class,
        max_pending_s=max_pending_s,
        max_runtime_s=max_runtime_s,
    )
    with Client() as client:
        job = client.finetune(base, dataset, **fields)
        submit.see_through(client, job, wait=wait, download=download, json=json)
