"""What `apiq quantize` and `apiq finetune` share: options of any job, and what follows."""

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from apiq_client.commands import artifacts
from apiq_client.commands.arguments import (
    AsJson,
    HubTokenFromEnv,
    Labels,
    Revision,
    hub_token,
    parse_pairs,
)
from apiq_client.download import check_directory
from apiq_client.errors import ApiqError, JobFailed
from apiq_client.options import given_fields, with_options_of
from apiq_client.records import Job
from apiq_client.sdk import Client
from apiq_client.terminal import err, out, print_json, show_progress

Priority = Annotated[
    int | None,
    typer.Option(
        help="-100 to 100; of two waiting jobs the higher one runs first.", show_default="0"
    ),
]
DeviceClass = Annotated[
    str | None,
    typer.Option(metavar="any|cpu|cuda", help="Which workers may run it.", show_default="any"),
]
MaxPending = Annotated[
    int | None, typer.Option(help="Fail it if no worker took it up after so many seconds.")
]
MaxRuntime = Annotated[
    int | None, typer.Option(help="Fail it if it runs longer than so many seconds.")
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Kept with the job and never read; may repeat."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the job has finished.")]
Download = Annotated[
    Path | None,
    typer.Option(
        file_okay=False, writable=True, help="Wait, then fetch all artifacts to this directory."
    ),
]


Submit = Callable[..., Job]  # (client, fields of the request, *arguments of the command)


def command(
    config: type[BaseModel], **nested: type[BaseModel]
) -> Callable[[Submit], Callable[..., None]]:
    """Make a function that submits a job a command, with the options of `config` (and `nested`,
    as `with_options_of` has it) and of any job: those that were given are the fields it gets."""
    return lambda submit: with_options_of(config, **nested)(_command(submit))


def _command(submit: Submit) -> Callable[..., None]:
    arguments = list(inspect.signature(submit).parameters.values())[2:]

    def run(
        *,
        revision: Revision = None,
        label: Labels = None,
        metadata: Metadata = None,
        priority: Priority = None,
        device_class: DeviceClass = None,
        max_pending_s: MaxPending = None,
        max_runtime_s: MaxRuntime = None,
        hub_token_from_env: HubTokenFromEnv = None,
        wait: Wait = False,
        download: Download = None,
        json: AsJson = False,
        **others: Any,
    ) -> None:
        own = {argument.name: others.pop(argument.name) for argument in arguments}
        fields = given_fields(
            others
            | {
                "revision": revision,
                "labels": parse_pairs(label, "--label") or None,
                "metadata": parse_pairs(metadata, "--metadata") or None,
                "priority": priority,
                "device_class": device_class,
                "max_pending_s": max_pending_s,
                "max_runtime_s": max_runtime_s,
                "hub_token": hub_token(hub_token_from_env),
            }
        )
        if download:  # now, not after an hour
            check_directory(download, None)
        with Client() as client:
            job = submit(client, fields, **own)
            see_through(client, job, wait=wait, download=download, json=json)

    run.__doc__, run.__name__ = submit.__doc__, submit.__name__
    signature = inspect.signature(run)
    shared = signature.parameters.values()
    run.__signature__ = signature.replace(parameters=[*arguments, *shared])  # type: ignore[attr-defined]
    return run


def see_through(client: Client, job: Job, *, wait: bool, download: Path | None, json: bool) -> None:
    """Print the job that was submitted; with `wait` or `download` once it has ended, and what it
    waits for before it."""
    try:
        if wait or download:
            err.print(job.id)
            if job.waits_for:
                err.print(f"waits for {job.waits_for}")
                show_progress(client.watch(job.waits_for))
            job = show_progress(client.watch(job.id))
        if json:
            print_json(job)
        elif not (wait or download):
            out.print(job.id)
        if job.state != "succeeded" and job.is_finished:
            raise JobFailed(job.id, job.state, job.error)
        if download:
            artifacts.fetch(client, job.id, download)
        elif wait and not json:
            err.print(f"download it  {_fetch(job)}")
        if (wait or download) and not json and (base := _base_of_adapter(job)):
            err.print(f"its base     {_fetch_base(base, download or Path(job.id))}")
    except KeyboardInterrupt:
        _tell_how_to_go_on(job, download)
        raise typer.Exit(130) from None
    except JobFailed:
        raise
    except (ApiqError, OSError):  # an outage, say, that lasted too long, or a full disk
        _tell_how_to_go_on(job, download)
        raise


def _tell_how_to_go_on(job: Job, directory: Path | None) -> None:
    """Nobody whose wait ends early should have to guess what became of the job."""
    fetch = _fetch(job) + (f" --dir {shlex.quote(str(directory))}" if directory else "")
    if job.is_finished:
        err.print(f"{job.id} has {job.state}; go on where the download stopped: {fetch}")
        return
    err.print(f"{job.id} goes on without you:")
    err.print(f"  watch it     apiq events -f {job.id}")
    err.print(f"  stop it      apiq jobs cancel {job.id}")
    err.print(f"  download it  {fetch}")
    if base := _base_of_adapter(job):
        err.print(f"  its base     {_fetch_base(base, directory or Path(job.id))}")


def _base_of_adapter(job: Job) -> str | None:
    """The quantize job whose `model/` the adapter that was trained belongs to."""
    base = str(job.input.get("base", ""))
    return base if base.startswith("job_") and job.input["method"] != "l4q" else None


def _fetch(job: Job) -> str:
    return f"apiq artifacts download {job.id}"


def _fetch_base(base: str, directory: Path) -> str:
    """Into `base/` beside the adapter in `directory`, where the lines of its card look."""
    beside = shlex.quote(str(directory / "base"))
    return f"apiq artifacts download {base} 'model/*' --dir {beside}"
