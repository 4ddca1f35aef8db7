"""`apiq artifacts`."""

import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from apiq_client.commands.jobs import AsJson, JobId
from apiq_client.download import check_directory
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
        typer.Argument(help="Only files like these: `model/*`, report.json.", show_default="all"),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-d", help="Where to.", show_default="a folder named after the job"),
    ] = None,
) -> None:
    """Fetch files; a broken download is continued, each sha256 is verified."""
    directory = directory or Path(job_id)
    with Client() as client:
        artifacts = [
            artifact
            for artifact in client.artifacts(job_id)
            if not pattern or any(fnmatch.fnmatchcase(artifact.path, x) for x in pattern)
        ]
        if not artifacts:
            like = ", ".join(pattern or ())
            raise ApiqError(
                "artifact_not_found",
                f"{job_id} has no artifact like {like}; legal: patterns of the paths that "
                f"`apiq artifacts list {job_id}` shows, and --dir for where to",
            )
        check_directory(directory, job_id)
        total_bytes = sum(artifact.size_bytes for artifact in artifacts)
        with show_bytes(total_bytes) as on_bytes:
            for artifact in artifacts:
                client.download(job_id, artifact, directory, on_bytes=on_bytes)
    err.print(f"{len(artifacts)} files, {describe_bytes(total_bytes)}, in {directory}")
