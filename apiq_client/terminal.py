"""How the command line speaks: tables, JSON, one progress bar, one red line for an error."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.segment import Segment
from rich.text import Text

from apiq_client.errors import ApiqError, ProblemError
from apiq_client.records import Job, Preview, Row, Token, TokenCounts

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 and C1 but tab and newline, and DEL


def printable(text: str) -> str:
    """Text of strangers for a terminal, which would obey it: control characters as U+FFFD."""
    return CONTROLS.sub("\ufffd", text)


class Screen(Console):
    """A console that only its own styles and bars control, not what it prints."""

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


out = Screen()
err = Screen(stderr=True)


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


def print_preview(preview: Preview) -> None:
    """What a model reads, and what of it is learned: green on a terminal, elsewhere in brackets.

    Tokens are told apart by every other one's underline, elsewhere by `|`.
    """
    for number, row in enumerate(preview.rows, 1):
        if row.tokens is None:
            out.print(f"--- row {number} ({row.shape})")
            _print_segments(row)
        else:
            counted = f"{row.length} tokens, {row.learned} carry loss"
            out.print(f"--- row {number} ({row.shape}): {counted}")
            _print_tokens(row.tokens, is_cut=len(row.tokens) < (row.length or 0))
    if preview.counts is not None:
        out.print(f"--- {_describe_counts(preview.counts)}")


def _print_segments(row: Row) -> None:
    for segment in row.segments:
        text = segment.text if out.is_terminal or not segment.learned else f"[{segment.text}]"
        out.print(f"{segment.role}: " if segment.role else "", end="")
        out.print(
            Text(text, style="bold green" if segment.learned else ""),
            end="\n" if segment.role else "",
        )
    if not row.segments[-1].role:
        out.print()


def _print_tokens(tokens: Sequence[Token], *, is_cut: bool) -> None:
    line = Text()
    for number, token in enumerate(tokens):
        if out.is_terminal:
            styles = ["bold green"] if token.learned else []
            line.append(token.text, style=" ".join([*styles, *["underline"] * (number % 2)]))
        else:
            line.append("|" if number else "")
            line.append(f"[{token.text}]" if token.learned else token.text)
    line.append(" ..." if is_cut else "")
    out.print(line)


def _describe_counts(counts: TokenCounts) -> str:
    size = describe_bytes(counts.counted_bytes)
    whole = f"the first {size} of the dataset" if counts.is_partial else "the whole dataset"
    rows = "1 row" if counts.rows == 1 else f"{counts.rows} rows"
    over = (
        ""
        if counts.too_long is None
        else f"; {counts.too_long} longer than max_length, {counts.max_length}"
    )
    return (
        f"{whole}: {rows}, {counts.tokens} tokens, {counts.learned} carry loss; "
        f"the longest row has {counts.longest}{over}"
    )


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


def as_json_has_it(value: Any) -> str:
    """`true`, and not `True`; text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def describe_data(data: Mapping[str, Any]) -> str:
    """What an event says, on a line: figures to four digits, and nothing that is null or empty."""
    told = {name: _in_words(value) for name, value in data.items() if value is not None}
    return " ".join(f"{name}={words}" for name, words in told.items() if words)


def _in_words(value: Any) -> str:
    match value:
        case float():
            return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case list():
            return ",".join(map(_in_words, value))
        case {"code": code, "message": message}:  # an error
            return f"{message} [{code}]"
    return as_json_has_it(value)


class _EtaColumn(ProgressColumn):
    """The server's estimate; it knows the phases, a bar only knows its own speed."""

    def render(self, task: Task) -> Text:
        return Text(describe_eta(task.fields.get("eta_seconds")))


def describe_doing(job: Job) -> str:
    """What a job that has not ended is at, where that says more than its state."""
    if job.waits_for:
        return "waits for its base"
    if job.last_loss:
        return f"again after {job.last_loss['code']}"
    return job.phase or "" if job.state == "running" else ""


def show_progress(jobs: Iterable[Job]) -> Job:
    """Draw a job as it goes on: one bar on a terminal, else one plain line a change."""
    if not err.is_terminal:
        return _plain_progress(jobs)
    columns = (
        TextColumn("{task.description}", markup=False),
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
                description=describe_doing(job) or job.state,
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
        line = describe_doing(job) or job.state
        if done and not job.is_finished:
            line += (
                f" {float(done.get('percent') or 0):.0f}% {describe_eta(done.get('eta_seconds'))}"
            )
        if line != last:
            err.print(line)
        last = line
    assert job is not None
    return job
