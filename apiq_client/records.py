"""What the server answers, as values. Fields that a newer server adds are kept in `extra`."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

STATES = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled")
TERMINAL_STATES = frozenset(STATES[3:])


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Job(_Record):
    """A job as it was when it was asked for."""

    id: str
    type: str
    state: str  # one of STATES
    phase: str | None = None  # what a running job is doing
    attempt: int = 0
    event_seq: int = 0  # of its latest event; grows whenever the job changes
    progress: dict[str, Any] | None = None  # done, total, unit, percent, eta_seconds
    error: dict[str, Any] | None = None  # code, message, fault, retryable
    last_loss: dict[str, Any] | None = None  # why a queued job is tried again: the same, and more
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retry_of: str | None = None  # the job that this one repeats
    waits_for: str | None = None  # the job that has to succeed first, until it has
    made_for: str | None = None  # the job whose request asked for this one too
    labels: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    input: dict[str, Any] = {}  # the request, every default resolved
    metrics: dict[str, Any] | None = None
    urls: dict[str, str] = {}

    @property
    def is_finished(self) -> bool:
        return self.state in TERMINAL_STATES


class JobPage(_Record):
    """Some jobs, newest first; `next` leads to the jobs behind them."""

    jobs: list[Job]
    next: str | None = None


class Event(_Record):
    """One entry of a job's history; `seq` has no gaps."""

    seq: int
    type: str
    at: datetime
    data: dict[str, Any] = {}


class EventPage(_Record):
    """Some events, the oldest first."""

    events: list[Event]


class Artifact(_Record):
    """One file that a job published."""

    path: str
    size_bytes: int
    sha256: str
    content_type: str


class ArtifactList(_Record):
    """All that a job published."""

    artifacts: list[Artifact]


class Dataset(_Record):
    """An uploaded text, or uploaded rows to train on."""

    id: str
    name: str | None = None
    kind: str = "text"  # text, rows
    size_bytes: int
    characters: int
    rows: int | None = None  # None of a text, here and below
    duplicates: int | None = None  # rows that an earlier line has word for word
    longest_row_characters: int | None = None  # of the row in which most is said
    origin: dict[str, Any] | None = None  # where on the hub it was fetched; None: uploaded
    sha256: str
    created_at: datetime


class Segment(_Record):
    """A piece of what a model reads."""

    text: str
    learned: bool  # training on it teaches the model to say it
    role: str | None = None  # who says it, in a chat


class Token(_Record):
    """A token that a model reads."""

    id: int
    text: str  # what it adds to the text
    learned: bool  # its loss counts


class Row(_Record):
    """One of the rows with which a dataset begins."""

    shape: str  # messages, prompt, instruction, question, text
    segments: list[Segment]
    tokens: list[Token] | None = None  # the first of them; without a base None, here and below
    length: int | None = None  # tokens
    learned: int | None = None  # tokens that carry loss


class TokenCounts(_Record):
    """How many tokens a dataset has, or its beginning."""

    rows: int
    tokens: int
    learned: int  # that carry loss
    longest: int  # tokens of the longest row
    max_length: int | None = None  # the most that a job takes of a row; older servers do not say
    too_long: int | None = None  # rows of more; None of a text
    counted_bytes: int
    is_partial: bool  # there is more of the dataset


class Preview(_Record):
    """How a dataset begins."""

    rows: list[Row]
    counts: TokenCounts | None = None  # with a base
