"""A dataset of the hub on its way into an `Upload`.

JSONL, parquet and text: no code of a repository is run. What they hold is checked as any upload
is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from apiq_core.errors import ApiQError, UserError
from jobs import hub
from jobs.datasets import parquet
from jobs.datasets.hub_splits import KINDS, PARQUET, HubDataset, choose_files, suffix_of
from jobs.datasets.upload import Upload
from jobs.settings import Settings

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Found:
    """The files of a split, at one commit."""

    repository: hub.HubRepository
    files: list[str]
    kind: str
    size_bytes: int
    origin: dict[str, Any]  # as the record shows it


def find(asked: HubDataset, settings: Settings) -> Found:
    """Resolve the revision and choose the files. Asks the hub.

    Raises `UserError`: `hub_dataset_not_found`, `hub_dataset_gated`, `revision_not_found`,
    `hub_split_not_found`, `hub_files_unsupported`; or `InfraError(hub_unreachable)`.
    """
    token = None if asked.hub_token is None else asked.hub_token.get_secret_value()
    with _about_a_dataset():
        repository = hub.find_dataset(
            asked.hub, asked.revision, timeout_s=settings.hub_timeout_s, token=token
        )
    sizes = dict(repository.sizes_bytes)
    files = choose_files(list(sizes), repository.configs, asked)
    origin = {
        "hub": asked.hub,
        "config": asked.config,
        "split": asked.split,
        "revision": repository.commit,
        "files": files,
    }
    kind = KINDS[suffix_of(files[0])]
    return Found(repository, files, kind, sum(sizes[name] for name in files), origin)


def fetch(found: Found, upload: Upload) -> None:
    """Download the files and write them into `upload`, one behind the other."""
    upload.begin(found.kind)
    upload.expect(found.size_bytes)
    for name in found.files:
        with _about_a_dataset():
            path = hub.download_dataset_file(found.repository, name, upload.folder / "hub")
        last = b"\n"
        for chunk in _content(found, name, path):
            upload.write(chunk)
            last = chunk[-1:]
        if last != b"\n":
            upload.write(b"\n")
        path.unlink()


def _content(found: Found, name: str, path: Path) -> Iterator[bytes]:
    """Chunks of what an upload of the file would hold."""
    if suffix_of(name) != PARQUET:
        with path.open("rb") as file:
            yield from iter(partial(file.read, CHUNK_BYTES), b"")
        return
    try:
        yield from parquet.lines(path)
    except parquet.UnreadableParquet as error:
        raise UserError(
            "hub_files_unsupported",
            f"{name[:100]!r} of {found.repository.name} cannot be read as parquet: {error}",
            param="hub",
            value=found.repository.name,
            legal=list(KINDS),
        ) from None


@contextmanager
def _about_a_dataset() -> Iterator[None]:
    """What the hub says of models, said of a dataset."""
    codes = {"model_not_found": "hub_dataset_not_found", "model_gated": "hub_dataset_gated"}
    try:
        yield
    except ApiQError as error:
        error.code = codes.get(error.code, error.code)
        error.param = "hub" if error.param == "model" else error.param
        if error.code == "revision_not_found":
            error.legal = "a branch, a tag or a commit of that dataset"
        raise
