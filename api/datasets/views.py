"""What the API says of a dataset and of its rows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field

from apiq_core.finetune.data.rows import Row
from jobs.datasets import Dataset


class Origin(BaseModel):
    """Where on the hub a dataset was fetched."""

    hub: str
    config: str | None
    split: str
    revision: str = Field(description="The commit.")
    files: list[str] = Field(description="One behind the other.")


class DatasetView(BaseModel):
    """What was uploaded. Use a text as `calibration.source`: `dataset:` and its id."""

    id: str = Field(examples=["ds_019ab6f2-7a4e-7c31-9d5e-0f3b8a6c2d11"])
    name: str | None
    kind: str = Field(description="`text`, or `rows` to train on.")
    size_bytes: int
    characters: int
    rows: int | None = Field(description="How many there are; null of a text.")
    duplicates: int | None = Field(
        description="Rows that are word for word one of the first million; null of a text."
    )
    longest_row_characters: int | None = Field(
        description="Of the row in which most is said: a token is about four of them in English. "
        "Null of a text."
    )
    origin: Origin | None = Field(description="Of a dataset that the hub has; null of an upload.")
    sha256: str
    created_at: datetime


class DatasetPage(BaseModel):
    """Newest first."""

    datasets: list[DatasetView]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class SegmentView(BaseModel):
    """A piece of what the model reads."""

    text: str
    learned: bool = Field(description="Whether training on it teaches the model to say it.")
    role: str | None = Field(default=None, description="Who says it, if the row is a chat.")


class TokenView(BaseModel):
    """A token of a row, in the order in which the model reads them."""

    id: int
    text: str = Field(
        description="What it adds to the text; empty of the later tokens of one character."
    )
    learned: bool = Field(description="Whether its loss counts.")


class RowView(BaseModel):
    """A row as training reads it. The template of a chat belongs to the model: it is added there,
    and a segment is a message here."""

    shape: str = Field(description="`messages`, `prompt`, `instruction`, `question` or `text`.")
    segments: list[SegmentView]
    tokens: list[TokenView] | None = Field(
        default=None, description="With `base`: its first 1,000 tokens, template included."
    )
    length: int | None = Field(default=None, description="With `base`: how many there are.")
    learned: int | None = Field(
        default=None, description="With `base`: how many of them carry loss."
    )

    @classmethod
    def of(cls, row: Row, read: Mapping[str, Any] | None = None) -> Self:
        said = [
            SegmentView(text=m["content"], learned=m["role"] == "assistant", role=m["role"])
            for m in row.messages
        ]
        segments = [SegmentView(text=s.text, learned=s.learned) for s in row.segments]
        return cls(shape=row.shape, segments=said or segments, **(read or {}))


class TokenCountsView(BaseModel):
    """Tokens of the dataset, as training with `base` reads it."""

    rows: int = Field(description="So many were counted; a text is one.")
    tokens: int
    learned: int = Field(description="Tokens that carry loss.")
    longest: int = Field(description="Tokens of the longest row.")
    max_length: int = Field(description="The most that a job takes of a row, as asked for.")
    too_long: int | None = Field(
        None,
        description="Rows longer than that, which a job with that `max_length` would refuse, or "
        "cut with `truncate`; not of a text, which is cut into windows.",
    )
    counted_bytes: int = Field(description="So much of the dataset was read.")
    is_partial: bool = Field(description="Whether that is only its beginning: 4 MiB.")


class Preview(BaseModel):
    """The first three rows; a text is one, of its first 1,000 characters."""

    rows: list[RowView]
    counts: TokenCountsView | None = Field(default=None, description="With `base`.")


def view(dataset: Dataset) -> DatasetView:
    return DatasetView(**{name: getattr(dataset, name) for name in DatasetView.model_fields})
