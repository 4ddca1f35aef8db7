"""How a dataset begins, as training reads it. No model is known, so no tokens and no template."""

from collections.abc import Iterator

from apiq_core.finetune.data.read import MAX_LINE_BYTES, Findings, Lines
from apiq_core.finetune.data.rows import Row, Segment
from jobs.artifacts import ArtifactStore
from jobs.datasets import Dataset
from jobs.datasets.files import TEXT, dataset_key

ROWS = 3
TEXT_CHARACTERS = 1000
MAX_CHARACTER_BYTES = 4  # in UTF-8
FIRST_PIECE_BYTES = 64 * 1024  # holds three rows of most datasets
# three of the longest rows, and some blank lines
MAX_PREVIEW_BYTES = (ROWS + 1) * MAX_LINE_BYTES


def preview(store: ArtifactStore, dataset: Dataset) -> list[Row]:
    """The first rows; of a text its first characters. Reads no more of the object than that."""
    return _first_text(store, dataset) if dataset.kind == TEXT else _first_rows(store, dataset)


def _first_text(store: ArtifactStore, dataset: Dataset) -> list[Row]:
    end = min(dataset.size_bytes, TEXT_CHARACTERS * MAX_CHARACTER_BYTES)
    content = b"".join(store.open_range(dataset_key(dataset.id, dataset.kind), 0, end))
    text = content.decode("utf-8-sig", "ignore")  # the last character may be cut
    return [Row("text", segments=(Segment(text[:TEXT_CHARACTERS], learned=True),))]


def _first_rows(store: ArtifactStore, dataset: Dataset) -> list[Row]:
    rows: list[Row] = []
    findings = Findings()
    for number, line in _first_lines(store, dataset):
        row = findings.add(number, line)
        assert row is not None  # it was checked when it was uploaded
        rows.append(row)
        if len(rows) == ROWS:
            break
    return rows


def _first_lines(store: ArtifactStore, dataset: Dataset) -> Iterator[tuple[int, bytes]]:
    lines = Lines()
    for piece in _pieces(store, dataset):
        yield from lines.feed(piece)
    if dataset.size_bytes <= MAX_PREVIEW_BYTES:
        yield from lines.end()


def _pieces(store: ArtifactStore, dataset: Dataset) -> Iterator[bytes]:
    """Ever larger ones, so that short rows need one small read and long ones few."""
    key = dataset_key(dataset.id, dataset.kind)
    limit = min(dataset.size_bytes, MAX_PREVIEW_BYTES)
    start, end = 0, FIRST_PIECE_BYTES
    while start < limit:
        yield b"".join(store.open_range(key, start, min(end, limit)))
        start, end = end, end * 4
