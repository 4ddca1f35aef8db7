from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from apiq_client import terminal
from apiq_client.records import Job, Preview, Row, Segment, Token
from apiq_client.terminal import describe_bytes, describe_eta, show_progress


def job(state: str, phase: str | None = None, percent: float | None = None) -> Job:
    progress = None if percent is None else {"percent": percent, "eta_seconds": 61.0}
    return Job(
        id="job_1",
        type="quantize",
        state=state,
        phase=phase,
        progress=progress,
        created_at=datetime.now(UTC),
    )


def test_one_plain_line_a_change_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = [
        job("queued"),
        job("queued"),
        job("running", "quantizing", 10.2),
        job("running", "quantizing", 10.4),
        job("running", "quantizing", 50),
        job("succeeded", None, 100),
    ]
    assert show_progress(jobs) == jobs[-1]
    assert capsys.readouterr().err.splitlines() == [
        "queued",
        "quantizing 10% ETA 1:01",
        "quantizing 50% ETA 1:01",
        "succeeded",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "ETA -:--"), (5, "ETA 0:05"), (3725, "ETA 1:02:05")]
)
def test_eta(seconds: float | None, text: str) -> None:
    assert describe_eta(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (5e12, "5000.0 GB")]
)
def test_bytes(count: float, text: str) -> None:
    assert describe_bytes(count) == text


def test_what_is_learned_is_green_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(
        file=StringIO(), force_terminal=True, color_system="standard", markup=False, highlight=False
    )
    monkeypatch.setattr(terminal, "out", screen)
    segments = [Segment(text="2+2=", learned=False), Segment(text="4", learned=True)]
    terminal.print_preview(Preview(rows=[Row(shape="prompt", segments=segments)]))
    assert isinstance(screen.file, StringIO)
    shown = screen.file.getvalue()
    assert shown.splitlines() == ["--- row 1 (prompt)", "2+2=\x1b[1;32m4\x1b[0m"]


def test_tokens_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(
        file=StringIO(), force_terminal=True, color_system="standard", markup=False, highlight=False
    )
    monkeypatch.setattr(terminal, "out", screen)
    tokens = [Token(id=n, text=text, learned=n > 1) for n, text in enumerate("2+4")]
    row = Row(shape="prompt", segments=[], tokens=tokens, length=4, learned=2)
    terminal.print_preview(Preview(rows=[row]))
    assert isinstance(screen.file, StringIO)
    assert screen.file.getvalue().splitlines() == [
        "--- row 1 (prompt): 4 tokens, 2 carry loss",
        "2\x1b[4m+\x1b[0m\x1b[1;32m4\x1b[0m ...",
    ]
