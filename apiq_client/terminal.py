"""How the command line speaks: tables, JSON, one progress bar, one red line for an error."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from apiq_client.errors import ApiqError, ProblemError
from apiq_client.records import Job, Row

out = Console(soft_wrap=True, markup=False, highlight=False)
err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def print_error(error: ApiqError) -> None:
    """One red line: what is wrong, what is legal, and the code; of bad rows another one each."""
    err.print(f"error: {' '.join(error.message.split())} [{error.code}]", style="red")
    if isinstance(error, ProblemError) and error.code == "bad_rows":
        for row in error.errors:
            err.print(f"  {row['pointer']}: {' '.join(row['detail'].split())}")


def print_json(value: BaseModel | dict[str, Any]) -> None:
    def plain(record: BaseModel) -> dict[str, Any]:
        return record.model_dump(mode="json")

    sys.stdout.write(json.dumps(value, indent=2, default=plain) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns without lines, easy to cut and to grep; never wrapped or shortened."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out.print("  ".join(cells).rstrip())


def print_rows(rows: Iterable[Row]) -> None:
    """What a model reads, and what of it is learned: green on a terminal, elsewhere in brackets."""
    for number, row in enumerate(rows, 1):
        out.print(f"--- row {number} ({row.shape})")
        for segment in row.segments:
            text = segment.text if out.is_terminal or not segment.learned else f"[{segment.text}]"
            out.print(f"{segment.role}: " if segment.role else "", end="")
            out.print(
                Text(text, style="bold green" if segment.learned else ""),
                end="\n" if segment.role else "",
            )
        if not row.segments[-1].role:
            out.print()


def describe_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def describe_eta(seconds: float | None) -> str:
    if seconds is None:
        return "ETA -:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"ETA {hours}:{minutes:02}:{rest:02}" if hours else f"ETA {minutes}:{rest:02}"


class _EtaColumn(ProgressColumn):
    """The server's estimate; it knows the phases, a bar only knows its own speed."""

    def render(self, task: Task) -> Text:
        return Text(describe_eta(task.fields.get("eta_seconds")))


def show_progress(jobs: Iterable[Job]) -> Job:
    """Draw a job as it goes on: one bar on a terminal, else one plain line a change."""
    if not err.is_terminal:
        return _plain_progress(jobs)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _EtaColumn(),
    )
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("queued", total=100.0, eta_seconds=None)
        job = None
        for job in jobs:
            done = job.progress or {}
            percent = 100.0 if job.state == "succeeded" else float(done.get("percent") or 0)
            progress.update(
                task,
                description=_doing(job),
                completed=percent,
                eta_seconds=0 if job.is_finished else done.get("eta_seconds"),
            )
    assert job is not None
    return job


@contextmanager
def show_bytes(total_bytes: int) -> Iterator[Any]:
    """A bar over bytes on a terminal, nothing elsewhere; yields the function to report to."""
    columns = (TextColumn("downloading"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("downloading", total=total_bytes)
        yield lambda count: progress.advance(task, count)


def _plain_progress(jobs: Iterable[Job]) -> Job:
    job, last = None, ""
    for job in jobs:
        done = job.progress or {}
        line = _doing(job)
        if done and not job.is_finished:
            line += (
                f" {float(done.get('percent') or 0):.0f}% {describe_eta(done.get('eta_seconds'))}"
            )
        if line != last:
            err.print(line)
        last = line
    assert job is not None
    return job


def _doing(job: Job) -> str:
    return job.phase if job.state == "running" and job.phase else job.state
