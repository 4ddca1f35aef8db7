import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from apiq_client import terminal
from apiq_client.errors import ApiqError, ProblemError
from apiq_client.records import Job, Preview, Row, Segment, Token
from apiq_client.terminal import describe_bytes, describe_data, describe_eta, show_progress


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


def test_a_job_that_waits_for_another_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = job("queued").model_copy(update={"waits_for": "job_0"})
    show_progress([waiting, job("running"), job("failed", "quantizing", 10)])
    assert capsys.readouterr().err.splitlines() == ["waits for its base", "running", "failed"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "ETA -:--"), (5, "ETA 0:05"), (3725, "ETA 1:02:05")]
)
def test_eta(seconds: float | None, text: str) -> None:
    assert describe_eta(seconds) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"step": 12, "train_loss": None, "lr": 0.0001913545457642601, "tokens_per_s": 12345.6},
            "step=12 lr=0.0001914 tokens_per_s=12346",
        ),
        (
            {"error": {"code": "disk_full", "message": "no space", "retryable": True}, "block": 3},
            "error=no space [disk_full] block=3",
        ),
        (
            {"differs": ["threads", "versions.torch"], "kept": False},
            "differs=threads,versions.torch kept=false",
        ),
        ({"differs": []}, ""),
    ],
)
def test_the_data_of_an_event_on_a_line(data: dict[str, Any], text: str) -> None:
    assert describe_data(data) == text


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


HOSTILE = "a\x1b]52;c;cm0=\x07\x9b2J\x7f[b]:x:"
HARMLESS = "a\ufffd]52;c;cm0=\ufffd2J\ufffd[b]:x:"  # rich itself leaves \x07 out


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What a terminal is sent, without the styles of our own."""
    sent = StringIO()
    for name in ("out", "err"):
        screen = terminal.Screen(file=sent, force_terminal=True, width=300, color_system="standard")
        monkeypatch.setattr(terminal, name, screen)
    return lambda: re.sub(r"\x1b\[([0-9;]*m|\?25[lh]|2K|1A)", "", sent.getvalue())


def test_every_control_character_is_replaced() -> None:
    controls = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n", "\t"}
    assert {terminal.printable(character) for character in controls} == {"\ufffd"}
    assert terminal.printable("Zw\u00f6lf\n\t\u00a0\U0001f98a") == "Zw\u00f6lf\n\t\u00a0\U0001f98a"


def test_a_stranger_commands_no_terminal(screens: Callable[[], str]) -> None:
    segments = [Segment(text=HOSTILE, learned=learned) for learned in (False, True)]
    tokens = [Token(id=1, text=HOSTILE, learned=True)]
    terminal.print_preview(
        Preview(
            rows=[
                Row(shape="prompt", segments=segments),
                Row(shape="prompt", segments=[], tokens=tokens, length=1, learned=1),
            ]
        )
    )
    terminal.print_table(["NAME"], [[HOSTILE]])
    terminal.print_error(ApiqError("a_code", HOSTILE))
    terminal.print_error(
        ProblemError(422, {"code": "bad_rows", "errors": [{"pointer": HOSTILE, "detail": HOSTILE}]})
    )
    show_progress([job("running", HOSTILE, 10)])
    shown = screens()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", shown)
    assert shown.count(HARMLESS) == 7
    assert HARMLESS.removesuffix(":x:") in shown.splitlines()[-1]  # the bar, which cuts it
