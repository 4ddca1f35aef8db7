"""`apiq quantize`."""

from typing import Annotated, Any

import typer

from apiq_client.commands import submit
from apiq_client.options import with_options_of
from apiq_client.sdk import Client
from apiq_core.config import QuantizeConfig


@with_options_of(QuantizeConfig)
def quantize(
    model: Annotated[
        str, typer.Argument(help="`name` or `org/name`: of the server's models, or of the hub.")
    ],
    *,
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
    """Submit a job that quantizes MODEL."""
    fields = submit.fields_of(
        config,
        label,
        hub_token_from_env,
        revision=revision,
        priority=priority,
        device_class=device_class,
        max_pending_s=max_pending_s,
        max_runtime_s=max_runtime_s,
    )
    if ("bits" in fields) == ("bits_per_weight" in fields):
        raise typer.BadParameter("give exactly one of --bits and --bits-per-weight")
    with Client() as client:
        job = client.quantize(model, **fields)
        submit.see_through(client, job, wait=wait, download=download, json=json)
