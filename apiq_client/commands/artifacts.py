"""`apiq artifacts`."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from apiq_client.commands.arguments import AsJson, JobId
from apiq_client.download import MANIFEST
from apiq_client.errors import ApiqError
from apiq_client.sdk import Client
from apiq_client.terminal import describe_bytes, err, print_json, print_table, show_bytes

app = typer.Typer(name="artifacts", help="List and download what a job made.", no_args_is_help=True)


@app.command("list")
def list_artifacts(job_id: JobId, json: AsJson = False) -> None:
    """The files of a finished job."""
    with Client() as client:
        artifacts = client.artifacts(job_id)
    if json:
        print_json({"artifacts": artifacts})
        return
    print_table(
        ("PATH", "SIZE", "SHA256"),
        ((x.path, describe_bytes(x.size_bytes), x.sha256) for x in artifacts),
    )


@app.command()
def download(
    job_id: JobId,
    pattern: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN",
            help="Only files like these: `model/*`, report.json.",
            show_default="all",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            "-d",
            file_okay=False,
            writable=True,
            help="Where to.",
            show_default="a folder named after the job",
        ),
    ] = None,
) -> None:
    """Fetch files, and the manifest with them.

    A broken download is continued, each sha256 is verified.
    """
    with Client() as client:
        fetch(client, job_id, directory or Path(job_id), pattern or ["*"])


def fetch(client: Client, job_id: str, directory: Path, patterns: Sequence[str] = ("*",)) -> None:
    """Download with a bar what is like one of `patterns`; each must be like something."""
    there = client.artifacts(job_id)
    found = {
        like: {x.path for x in there if fnmatch.fnmatchcase(x.path, like)} for like in patterns
    }
    if unlike := [like for like, paths in found.items() if not paths]:
        raise ApiqError(
            "artifact_not_found",
            f"{job_id} has no artifact like {', '.join(unlike)}; legal: patterns of the paths "
            f"that `apiq artifacts list {job_id}` shows, and --dir for where to",
        )
    artifacts = [x for x in there if x.path in {MANIFEST}.union(*found.values())]
    total_bytes = sum(x.size_bytes for x in artifacts)
    with show_bytes(total_bytes) as on_bytes:
        client.download_all(job_id, directory, artifacts=artifacts, on_bytes=on_bytes)
    err.print(f"{len(artifacts)} files, {describe_bytes(total_bytes)}, in {directory}")
