"""`apiq jobs`, `apiq events`, `apiq logs`."""

import sys
from collections.abc import Iterator
from json import dumps
from typing import Annotated, Any

import typer

from apiq_client.commands.arguments import (
    AsJson,
    HubTokenFromEnv,
    JobId,
    Labels,
    hub_token,
    parse_pairs,
)
from apiq_client.records import STATES, Job
from apiq_client.sdk import Client
from apiq_client.terminal import (
    as_json_has_it,
    describe_data,
    describe_doing,
    out,
    print_json,
    print_table,
    printable,
)

app = typer.Typer(name="jobs", help="List, show, cancel, retry, delete.", no_args_is_help=True)


@app.command("list")
def list_jobs(
    state: Annotated[
        str | None, typer.Option(metavar="|".join(STATES), help="Only jobs in this state.")
    ] = None,
    job_type: Annotated[
        str | None,
        typer.Option("--type", metavar="quantize|finetune", help="Only jobs of this type."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    label: Labels = None,
    after: Annotated[
        str | None, typer.Option(metavar="NEXT", help="Only jobs behind a page: its `next`.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json: AsJson = False,
) -> None:
    """The newest jobs."""
    wanted = {"state": state, "type": job_type, "model": model, "after": after}
    labels = parse_pairs(label, "--label")
    with Client() as client:
        pages = list(client.job_pages(**wanted, labels=labels, limit=limit))
    jobs = [job for page in pages for job in page.jobs]
    if json:
        print_json({"jobs": jobs, "next": pages[-1].next})
        return
    rows = (
        (
            job.id,
            job.state,
            _doing(job),
            str(job.input.get("model", "")),
            _how(job),
            str(job.input.get("bits") or job.input.get("bits_per_weight") or ""),
            f"{job.created_at:%Y-%m-%d %H:%M:%S}",
        )
        for job in jobs
    )
    print_table(("ID", "STATE", "DOING", "MODEL", "METHOD", "BITS", "CREATED (UTC)"), rows)


@app.command()
def show(job_id: JobId, json: AsJson = False) -> None:
    """Everything about one job."""
    with Client() as client:
        job = client.job(job_id)
    if json:
        print_json(job)
        return
    rows = list(_flat(job.model_dump(mode="json")))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        out.print(f"{name:{width}}  {value}")


@app.command()
def cancel(job_id: JobId, json: AsJson = False) -> None:
    """Stop a job: at once if it is queued, at its next step if it runs.

    A job that was made for it, and that it waits for, is stopped too.
    """
    with Client() as client:
        job = client.cancel(job_id)
    if json:
        print_json(job)
    else:
        out.print(f"{job.id} {job.state}")


@app.command()
def retry(job_id: JobId, hub_token_from_env: HubTokenFromEnv = None, json: AsJson = False) -> None:
    """Submit one that failed or was cancelled again; print the new id."""
    with Client() as client:
        job = client.retry(job_id, hub_token=hub_token(hub_token_from_env))
    if json:
        print_json(job)
    else:
        out.print(job.id)


@app.command()
def delete(job_id: JobId) -> None:
    """Delete a job that has ended, and what it made."""
    with Client() as client:
        client.delete(job_id)
    out.print(f"{job_id} deleted")


def events(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has finished.")
    ] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events behind this number.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """The history of a job."""
    with Client() as client:
        client.job(job_id)  # where no server is, minutes of patience are for nothing
        for event in client.events(job_id, after=after, follow=follow):
            if json:
                line = dumps(event.model_dump(mode="json"))  # in ASCII
            else:
                data = describe_data(event.data)
                told = f"{event.seq:>4}  {event.at:%H:%M:%S}  {event.type:10}  {data}"
                line = printable(told.rstrip())
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def logs(
    job_id: JobId,
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last so many lines.")] = None,
) -> None:
    """What the process of a job printed.

    On a terminal without control characters.
    """
    with Client() as client:
        text = client.logs(job_id, tail=tail)
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def _flat(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`input.calibration.samples` and its like; what is null is left out."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            yield prefix + name, ", ".join(map(as_json_has_it, values))


def _how(job: Job) -> str:
    """A quantize job's method and recipe; the type of another."""
    named = [str(job.input[key]) for key in ("method", "recipe") if job.input.get(key)]
    return " ".join(named) or job.type


def _doing(job: Job) -> str:
    doing = describe_doing(job)
    percent = (job.progress or {}).get("percent")
    return doing if percent is None or not doing else f"{doing} {percent:.0f}%"
