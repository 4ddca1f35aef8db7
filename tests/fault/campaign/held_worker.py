"""The real worker process, which can be held between two objects that it stores."""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

from jobs.artifacts import ArtifactStore, Stored, open_store
from jobs.settings import Settings
from tests.fault.campaign.points import reach
from worker import app


class HeldStore:
    """A store that everything else passes through."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def put_file(self, key: str, path: Path) -> Stored:
        if key.endswith("/files/model/model.safetensors"):
            reach("uploading")
        stored = self._store.put_file(key, path)
        if key.endswith("/files/manifest.json"):
            reach("uploaded")
        return stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def open_held(settings: Settings) -> HeldStore:
    return HeldStore(open_store(settings))


if __name__ == "__main__":
    with mock.patch.object(app, "open_store", open_held):
        sys.exit(app.main([sys.executable, "-m", "tests.fault.campaign.held_child"]))
