"""What a quantize job published, brought to where a finetune job trains on it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from apiq_core.errors import InfraError, Stopped, UserError
from jobs.artifacts import ArtifactStore
from jobs.errors import ObjectNotFound

NEEDED = ("model/", "adapter/")


def fetch(
    files: Sequence[Mapping[str, str]],
    target_dir: Path,
    store: ArtifactStore,
    should_stop: Callable[[], bool],
) -> None:
    """Put model and adapter into `target_dir`; `files` have a path, a key and a sha256 each.

    Raises `UserError(base_deleted)`, `InfraError(base_damaged)`, `Stopped`.
    """
    wanted = [file for file in files if file["path"].startswith(NEEDED)]
    if not wanted:
        raise UserError("base_deleted", "the base was deleted meanwhile", param="base")
    for file in wanted:
        target = target_dir / file["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with target.open("wb") as out:
                for chunk in store.open_range(file["key"]):
                    if should_stop():
                        raise Stopped
                    digest.update(chunk)
                    out.write(chunk)
        except ObjectNotFound:
            raise UserError(
                "base_deleted", f"{file['path']} of the base was deleted meanwhile", param="base"
            ) from None
        if digest.hexdigest() != file["sha256"]:
            raise InfraError("base_damaged", f"{file['path']} of the base is not what it was")
