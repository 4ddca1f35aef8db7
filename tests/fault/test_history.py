"""The check of the history finds what it is for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update

from jobs import leases
from jobs.artifacts import files_prefix
from jobs.database import Database
from jobs.job import Artifact, Job
from jobs.schema import artifacts, checkpoints, job_events
from jobs.settings import Settings
from jobs.states import State
from tests.fault.history import Expected, flaws
from tests.fault.worker.support import House, house_of

Damage = Callable[[House, Job, Path], None]


@pytest.fixture
def house(settings: Settings, database: Database) -> House:
    return house_of(settings, database)


def succeed(house: House, tmp_path: Path) -> Job:
    job = house.accept(ring=False)
    with house.database.begin() as connection:
        claimed = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
    assert claimed is not None
    prefix = files_prefix(job.id, claimed.attempt)
    readme = put(house, tmp_path, f"{prefix}/README.md", "# Done\n")
    listed = [{"path": "README.md", "sha256": readme.sha256}]
    content = json.dumps({"attempt": claimed.attempt, "files": listed})
    manifest = put(house, tmp_path, f"{prefix}/manifest.json", content)
    with house.database.begin() as connection:
        return leases.publish(connection, job.id, claimed.attempt, [readme, manifest], {})


def put(house: House, tmp_path: Path, key: str, content: str) -> Artifact:
    (tmp_path / "file").write_text(content)
    stored = house.store.put_file(key, tmp_path / "file")
    return Artifact(Path(key).name, stored.size_bytes, stored.sha256, "text/plain", key)


def change(house: House, statement: object) -> None:
    with house.database.begin() as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def nothing(house: House, job: Job, tmp_path: Path) -> None:
    return None


def a_file_is_gone(house: House, job: Job, tmp_path: Path) -> None:
    house.store.delete_prefix(house.artifacts(job)[0].key)


def a_file_is_another(house: House, job: Job, tmp_path: Path) -> None:
    put(house, tmp_path, house.artifacts(job)[0].key, "# Half\n")


def an_event_is_gone(house: House, job: Job, tmp_path: Path) -> None:
    change(house, delete(job_events).where(job_events.c.seq == 2))


def it_started_twice(house: House, job: Job, tmp_path: Path) -> None:
    change(house, update(job_events).where(job_events.c.seq == 3).values(type="started"))


def a_stale_file_shows(house: House, job: Job, tmp_path: Path) -> None:
    key = f"{files_prefix(job.id, 0)}/README.md"
    put(house, tmp_path, key, "# Done\n")
    house.store.delete_prefix(f"{files_prefix(job.id, 1)}/README.md")
    change(house, update(artifacts).where(artifacts.c.path == "README.md").values(key=key))


def an_object_is_nobodys(house: House, job: Job, tmp_path: Path) -> None:
    put(house, tmp_path, f"{files_prefix(job.id, 2)}/README.md", "# Done\n")


def a_checkpoint_stays(house: House, job: Job, tmp_path: Path) -> None:
    values = {"block": 0, "attempt": 1, "key": "k", "size_bytes": 1, "sha256": "0"}
    change(house, insert(checkpoints).values(job_id=job.id, **values))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (nothing, None),
        (a_file_is_gone, "lost"),
        (a_file_is_another, "lost"),
        (an_event_is_gone, "doubled"),
        (it_started_twice, "doubled"),
        (a_stale_file_shows, "doubled"),
        (an_object_is_nobodys, "untidy"),
        (a_checkpoint_stays, "untidy"),
    ],
)
def test_damage_is_found(house: House, tmp_path: Path, damage: Damage, kind: str | None) -> None:
    job = succeed(house, tmp_path)
    damage(house, job, tmp_path)
    assert {flaw.kind for flaw in flaws(house, {job.id: Expected()})} == ({kind} if kind else set())


def test_a_job_that_does_not_end_is_stuck(house: House) -> None:
    job = house.accept(ring=False)
    assert [flaw.kind for flaw in flaws(house, {job.id: Expected()})] == ["stuck"]


def test_a_job_that_ended_otherwise_or_is_gone_is_lost(house: House) -> None:
    job = house.cancel(house.accept(ring=False))
    assert flaws(house, {job.id: Expected(State.CANCELLED)}) == []
    expected = {job.id: Expected(), "job_none": Expected()}
    assert [flaw.kind for flaw in flaws(house, expected)] == ["lost", "lost"]
