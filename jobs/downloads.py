"""Models of the hub on this host's disk, kept between jobs; the least recently used go first.

A directory holds one model at one commit. Who reads it keeps it in use (`jobs.directories`).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs import hub
from jobs.directories import deleted, in_use
from jobs.settings import Settings

WRITTEN_PER_READ = 1  # an artifact is at most as large as the model it was made of


@contextmanager
def downloaded(model: hub.HubModel, settings: Settings, on_bytes: hub.OnBytes) -> Iterator[Path]:
    """The checkpoint's directory; it stays while the block lasts, and is whole.

    What another job fetched, or began to, is not fetched again.
    """
    name = f"{model.model_id.replace('/', '--')}@{model.commit}"
    with in_use(settings.downloads_dir / name) as directory:
        os.utime(directory)
        prune(settings, max(0, hub.needed_bytes(model) - _size_bytes(directory)))
        hub.download_model(model, directory, on_bytes)
        yield directory


def prune(settings: Settings, coming_bytes: int = 0) -> None:
    """Delete what nobody uses until the rest and what is coming are within the limit.

    What is coming also finds room on the disk, and so does what is made of it.
    """
    if not settings.downloads_dir.is_dir():
        return
    directories = [path for path in settings.downloads_dir.iterdir() if path.is_dir()]
    sizes_bytes = {path: _size_bytes(path) for path in directories}
    room_bytes = coming_bytes * (1 + WRITTEN_PER_READ)
    for path in sorted(directories, key=_used_at):
        kept_bytes = sum(sizes_bytes.values()) + coming_bytes
        free_bytes = shutil.disk_usage(settings.downloads_dir).free
        if kept_bytes <= settings.downloads_bytes and free_bytes >= room_bytes:
            return
        if deleted(path):
            del sizes_bytes[path]


def _used_at(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:  # another one deletes as well
        return 0.0


def _size_bytes(directory: Path) -> int:
    """What its files take; those that come and go meanwhile may be missed."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total
