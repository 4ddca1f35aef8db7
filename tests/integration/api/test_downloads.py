"""What a host keeps of the hub's models, and what it deletes of it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs import downloads, models
from jobs.settings import Settings
from tests.integration.api.hub_server import Hub

# no records and no store
pytestmark = pytest.mark.column("embedded")


@pytest.fixture
def names(hub: Hub, tiny_model: Path) -> list[str]:
    """Models on the hub, all of one size."""
    names = ["org/one", "org/two", "org/three"]
    for name in names:
        shutil.copytree(tiny_model, hub.root / "models" / name)
    return names


@contextmanager
def fetched(settings: Settings, name: str) -> Iterator[Path]:
    with models.fetched(
        models.locate(name, None, settings), settings, lambda *_: None
    ) as directory:
        yield directory


def fetch(settings: Settings, name: str, used_at: int) -> Path:
    with fetched(settings, name) as directory:
        pass
    os.utime(directory, (used_at, used_at))
    return directory


def limited(settings: Settings, tiny_model: Path, count: float) -> Settings:
    """Room for so many models."""
    size_bytes = sum(path.stat().st_size for path in tiny_model.iterdir())
    return settings.model_copy(update={"downloads_bytes": int(size_bytes * count)})


def test_what_was_fetched_is_not_fetched_again(
    settings: Settings, names: list[str], hub: Hub
) -> None:
    first = fetch(settings, names[0], 1)
    assert "model.safetensors" in hub.fetched()
    hub.requests.clear()
    seen: list[tuple[int, int]] = []
    located = models.locate(names[0], None, settings)
    with models.fetched(located, settings, lambda *x: seen.append(x)) as again:
        assert again == first
    assert hub.fetched() == set()
    assert seen[-1][0] == seen[-1][1] > 0


def test_two_jobs_at_once_fetch_it_once(
    settings: Settings, names: list[str], hub: Hub, tiny_model: Path
) -> None:
    def content(_: int) -> bytes:
        with fetched(settings, names[0]) as directory:
            return (directory / "model.safetensors").read_bytes()

    with ThreadPoolExecutor(2) as pool:
        contents = set(pool.map(content, range(2)))
    assert contents == {(tiny_model / "model.safetensors").read_bytes()}
    gets = [path for method, path in hub.requests if method == "GET"]
    assert sum(path.endswith("/model.safetensors") for path in gets) == 1


def test_another_commit_is_another_model(settings: Settings, names: list[str], hub: Hub) -> None:
    first = fetch(settings, names[0], 1)
    hub.commit = "f" * 40
    assert fetch(settings, names[0], 2) != first


def test_what_began_to_arrive_is_gone_on_with(
    settings: Settings, names: list[str], hub: Hub, tiny_model: Path
) -> None:
    class Killed(Exception):
        pass

    def killed(done: int, total: int) -> None:
        if done == total:
            raise Killed

    located = models.locate(names[0], None, settings)
    with pytest.raises(Killed), models.fetched(located, settings, killed):
        pass
    hub.requests.clear()
    with fetched(settings, names[0]) as directory:
        content = (directory / "model.safetensors").read_bytes()
    assert content == (tiny_model / "model.safetensors").read_bytes()
    assert hub.fetched() <= {"model.safetensors"}


def test_the_least_recently_used_goes(
    settings: Settings, names: list[str], tiny_model: Path
) -> None:
    settings = limited(settings, tiny_model, 2.5)
    one, two = fetch(settings, names[0], 1), fetch(settings, names[1], 2)
    os.utime(one, (3, 3))
    three = fetch(settings, names[2], 4)
    assert (one.exists(), two.exists(), three.exists()) == (True, False, True)


def test_what_is_used_stays_until_it_is_not(
    settings: Settings, names: list[str], tiny_model: Path
) -> None:
    settings = limited(settings, tiny_model, 0)
    with fetched(settings, names[0]) as one:
        with fetched(settings, names[1]):
            downloads.prune(settings)
            assert len(list(settings.downloads_dir.iterdir())) == 2
        downloads.prune(settings)
        assert list(settings.downloads_dir.iterdir()) == [one]
        assert (one / "model.safetensors").is_file()
    downloads.prune(settings)
    assert list(settings.downloads_dir.iterdir()) == []


def test_a_full_disk_makes_room(
    settings: Settings, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fetch(settings, names[0], 1)
    disk_usage = shutil.disk_usage

    def full_at_first(path: Path) -> object:
        usage = disk_usage(path)
        return usage._replace(free=0) if one.exists() else usage

    monkeypatch.setattr(shutil, "disk_usage", full_at_first)
    two = fetch(settings, names[1], 2)
    assert (one.exists(), two.exists()) == (False, True)


def test_who_was_killed_uses_nothing(settings: Settings, names: list[str]) -> None:
    directory = fetch(settings, names[0], 1)
    hold = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from jobs.directories import in_use\n"
        "with in_use(Path(sys.argv[1])):\n"
        "    print('holds', flush=True)\n"
        "    time.sleep(600)\n"
    )
    settings = settings.model_copy(update={"downloads_bytes": 0})
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(directory)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        downloads.prune(settings)
        assert directory.exists()
        holder.send_signal(signal.SIGKILL)
    downloads.prune(settings)
    assert not directory.exists()
