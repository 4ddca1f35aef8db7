"""What a quantize job published, brought to where a finetune job trains on it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from apiq_core.errors import InfraError, UserError
from jobs.artifacts import ArtifactStore
from jobs.errors import ObjectNotFound
from worker import patience

NEEDED = ("model/", "adapter/")


def fetch(
    files: Sequence[Mapping[str, str]],
    target_dir: Path,
    store: ArtifactStore,
    check: Callable[[], None],
) -> None:
    """Put model and adapter into `target_dir`; `files` have a path, a key and a sha256 each.

    `check` is called before each chunk and may raise. Raises `UserError(base_deleted)`,
    `InfraError(base_damaged)`, `StoreUnavailable`.
    """
    wanted = [file for file in files if file["path"].startswith(NEEDED)]
    if not wanted:
        raise UserError("base_deleted", "the base was deleted meanwhile", param="base")
    for file in wanted:
        target = target_dir / file["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = partial(_copy, store, file["key"], target, check)
        try:
            sha256 = patience.with_store(copy, check)
        except ObjectNotFound:
            raise UserError(
                "base_deleted", f"{file['path']} of the base was deleted meanwhile", param="base"
            ) from None
        if sha256 != file["sha256"]:
            raise InfraError("base_damaged", f"{file['path']} of the base is not what it was")


def _copy(store: ArtifactStore, key: str, target: Path, check: Callable[[], None]) -> str:
    """The sha256 of what was written."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for chunk in store.open_range(key):
            check()
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
