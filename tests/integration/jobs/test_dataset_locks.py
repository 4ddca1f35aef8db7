"""Who accepts a job keeps its datasets and its base as they are; others may use them, too."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import uuid_utils

import jobs.database
from jobs import datasets, finetunes, intake, repository
from jobs.database import Database
from jobs.datasets import Dataset
from jobs.errors import DatasetInUse, DatasetNotFound
from jobs.requests import FinetuneRequest, QuantizeRequest
from jobs.settings import Settings

pytestmark = pytest.mark.column("production")  # one writer at a time on SQLite


@pytest.fixture
def database(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Whoever waits for a lock that is not given back gives up soon."""
    monkeypatch.setattr(jobs.database, "LOCK_TIMEOUT_MS", 2000)
    impatient = Database(settings.database_url)
    yield impatient
    impatient.dispose()


def dataset(database: Database, settings: Settings) -> str:
    found = Dataset(
        id=f"ds_{uuid_utils.uuid7()}",
        owner="",
        name=None,
        kind="text",
        size_bytes=10**9,
        characters=10**9,
        rows=None,
        duplicates=None,
        sha256="0" * 64,
        created_at=datetime.now(UTC),
    )
    with database.begin() as connection:
        datasets.reserve(connection, found, settings)
        datasets.confirm(connection, found)
    return found.id


def quantize(calibration: str, evaluation: str) -> QuantizeRequest:
    fields = {
        "calibration": {"source": f"dataset:{calibration}"},
        "evaluation": {"source": f"dataset:{evaluation}"},
    }
    return QuantizeRequest.model_validate({"model": "tiny", "bits": 2} | fields)


def test_two_are_accepted_at_once_whatever_their_order(
    database: Database, settings: Settings
) -> None:
    one, two = dataset(database, settings), dataset(database, settings)
    training = FinetuneRequest.model_validate(
        {"type": "finetune", "base": "tiny", "dataset": two, "validation": one}
    )
    with database.begin() as first, database.begin() as second, database.begin() as third:
        intake.check_datasets(first, quantize(one, two), "")
        intake.check_datasets(second, quantize(two, one), "")
        found = finetunes.lock_datasets(third, training, "")
        assert {param: dataset.id for param, dataset in found.items()} == {
            "dataset": two,
            "validation": one,
        }


def test_two_train_on_the_same_bases_whatever_their_order(database: Database) -> None:
    with database.begin() as connection:
        one, two = (repository.accept(connection, type="quantize", input={}).id for _ in range(2))
    ended = threading.Thread(target=cancel, args=(database, one))
    with database.begin() as first, database.begin() as second:
        repository.lock(first, one)
        repository.lock(second, two)
        repository.lock(first, two)
        repository.lock(second, one)
        ended.start()
        ended.join(0.5)
        assert ended.is_alive()  # who ends one of them still waits
    ended.join()
    with database.read() as connection:
        assert repository.get(connection, one).state == "cancelled"


def cancel(database: Database, job_id: str) -> None:
    with database.begin() as connection:
        repository.request_cancel(connection, job_id)


def test_a_deletion_waits_for_who_accepts(database: Database, settings: Settings) -> None:
    used = dataset(database, settings)
    request = quantize(used, used)
    raised: list[Exception] = []

    def delete() -> None:
        try:
            with database.begin() as connection:
                datasets.delete(connection, used)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=delete)
    with database.begin() as connection:
        intake.check_datasets(connection, request, "")
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        repository.accept(connection, type="quantize", input=request.to_input())
    thread.join()
    assert [type(error) for error in raised] == [DatasetInUse]


def test_who_accepts_waits_for_a_deletion(database: Database, settings: Settings) -> None:
    gone = dataset(database, settings)
    raised: list[Exception] = []

    def lock() -> None:
        try:
            with database.begin() as connection:
                datasets.lock(connection, gone)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=lock)
    with database.begin() as connection:
        datasets.delete(connection, gone)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join()
    assert [type(error) for error in raised] == [DatasetNotFound]
