"""Where an uploaded dataset lies in the artifact store, and how it comes from there."""

from pathlib import Path

from jobs.artifacts import ArtifactStore

SOURCE = "dataset:"  # before the id where a text is named as a source to calibrate on

TEXT = "text"
ROWS = "rows"
SUFFIXES = {".txt": TEXT, ".jsonl": ROWS, ".ndjson": ROWS}  # of files that come in
NAMES = {TEXT: "data.txt", ROWS: "data.jsonl"}  # of files that are kept


def dataset_key(dataset_id: str, kind: str) -> str:
    return f"{dataset_prefix(dataset_id)}/{NAMES[kind]}"


def dataset_prefix(dataset_id: str) -> str:
    """Under which there is nothing but that dataset."""
    return f"datasets/{dataset_id}"


def fetch_dataset(dataset_id: str, kind: str, scratch_dir: Path, store: ArtifactStore) -> Path:
    """Bring a dataset to `scratch_dir`; its suffix tells the kind: `.txt` or `.jsonl`."""
    target = scratch_dir / f"{dataset_id}{Path(NAMES[kind]).suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        for chunk in store.open_range(dataset_key(dataset_id, kind)):
            out.write(chunk)
    return target
