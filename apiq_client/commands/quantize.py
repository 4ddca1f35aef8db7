"""`apiq quantize`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from apiq_client.download import check_directory
from apiq_client.errors import JobFailed
from apiq_client.options import given_fields, with_config_options
from apiq_client.records import Job
from apiq_client.sdk import Client
from apiq_client.terminal import (
    describe_bytes,
    err,
    out,
    print_json,
    show_bytes,
    show_progress,
)

HubTokenFromEnv = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="For a gated model: the environment variable that holds a token of the hub.",
    ),
]


@with_config_options
def quantize(
    model: Annotated[
        str, typer.Argument(help="`name` or `org/name`: of the server's models, or of the hub.")
    ],
    *,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the hub.", show_default="main")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE to find the job by; may repeat.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            help="-100 to 100; of two waiting jobs the higher one runs first.", show_default="0"
        ),
    ] = None,
    device_class: Annotated[
        str | None,
        typer.Option(metavar="any|cpu|cuda", help="Which workers may run it.", show_default="any"),
    ] = None,
    max_pending_s: Annotated[
        int | None, typer.Option(help="Fail it if no worker took it up after so many seconds.")
    ] = None,
    max_runtime_s: Annotated[
        int | None, typer.Option(help="Fail it if it runs longer than so many seconds.")
    ] = None,
    hub_token_from_env: HubTokenFromEnv = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the job has finished.")] = False,
    download: Annotated[
        Path | None, typer.Option(help="Wait, then fetch all artifacts to this directory.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the job as JSON.")] = False,
    **config: Any,
) -> None:
    """Submit a job that quantizes MODEL."""
    own = {
        "revision": revision,
        "priority": priority,
        "device_class": device_class,
        "max_pending_s": max_pending_s,
        "max_runtime_s": max_runtime_s,
        "hub_token": hub_token(hub_token_from_env),
    }
    fields = given_fields(config | own)
    if ("bits" in fields) == ("bits_per_weight" in fields):
        raise typer.BadParameter("give exactly one of --bits and --bits-per-weight")
    if label:
        fields["labels"] = parse_labels(label)
    with Client() as client:
        job = client.quantize(model, **fields)
        try:
            if wait or download:
                err.print(job.id)
                job = show_progress(client.watch(job.id))
            if json:
                print_json(job)
            elif not (wait or download):
                out.print(job.id)
            if job.state != "succeeded" and job.is_finished:
                raise JobFailed(job.id, job.state, job.error)
            if download:
                _download(client, job.id, download)
        except KeyboardInterrupt:
            _tell_how_to_go_on(job, download)
            raise typer.Exit(130) from None


def _download(client: Client, job_id: str, directory: Path) -> None:
    check_directory(directory, job_id)
    artifacts = client.artifacts(job_id)
    total_bytes = sum(artifact.size_bytes for artifact in artifacts)
    with show_bytes(total_bytes) as on_bytes:
        for artifact in artifacts:
            client.download(job_id, artifact, directory, on_bytes=on_bytes)
    err.print(f"{len(artifacts)} files, {describe_bytes(total_bytes)}, in {directory}")


def _tell_how_to_go_on(job: Job, directory: Path | None) -> None:
    """Nobody who presses Ctrl-C should have to guess what became of the job."""
    fetch = f"apiq artifacts download {job.id}" + (f" --dir {directory}" if directory else "")
    if job.is_finished:
        err.print(f"{job.id} has {job.state}; go on where the download stopped: {fetch}")
        return
    err.print(f"{job.id} goes on without you:")
    err.print(f"  watch it     apiq events -f {job.id}")
    err.print(f"  stop it      apiq jobs cancel {job.id}")
    err.print(f"  download it  {fetch}")


def hub_token(variable: str | None) -> str | None:
    """The value of an environment variable: arguments are seen by everybody on the machine."""
    if variable is None:
        return None
    if not (token := os.environ.get(variable)):
        raise typer.BadParameter(
            "no environment variable of that name is set", param_hint="--hub-token-from-env"
        )
    return token


def parse_labels(pairs: list[str]) -> dict[str, str]:
    """`KEY=VALUE` each."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels
