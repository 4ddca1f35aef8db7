"""How long a claim takes with ever more jobs in the queue, and what the databases do for it.

For each query that the service asks often: the plan on the longest queue.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

from sqlalchemy import Connection, event, insert, select

from benchmarks.load.service import COLUMNS, MODEL, column
from benchmarks.report import show, write
from jobs import leases, maintenance, repository
from jobs.clock import now
from jobs.database import Database
from jobs.job import Job, new_job_id
from jobs.schema import job_labels, jobs
from jobs.settings import Settings
from jobs.states import State

QUEUED = (100, 10_000, 100_000)
CLAIMS = 60
OWNERS = 50


def main() -> None:
    rows: list[dict[str, Any]] = []
    plans: list[dict[str, str]] = []
    for name in COLUMNS:
        with column(name) as settings:
            database = Database(settings.database_url)
            filled = 0
            for count in QUEUED:
                fill(database, count - filled)
                if database.is_postgresql:  # whose autovacuum does it; SQLite has no such thing
                    analyze(database)
                rows += [{"column": name, **row} for row in measure(database, settings, count)]
                filled = count - CLAIMS
            plans += [{"column": name, **plan} for plan in explain(database, settings)]
            database.dispose()
    show(f"milliseconds of {CLAIMS} claims and of other queries", rows)
    for plan in plans:
        print(f"\n{plan['column']}: {plan['query']}: {plan['ms']} ms\n{plan['plan']}")
    write("load-claim", {"rows": rows, "plans": plans})


def fill(database: Database, count: int) -> None:
    """Queued jobs of many owners, labels and three priorities."""
    with database.begin() as connection:
        moment = connection.execute(select(now())).scalar_one()
        rows = [
            {
                "id": new_job_id(),
                "type": "quantize",
                "owner": f"owner{number % OWNERS}",
                "state": State.QUEUED,
                "attempt": 0,
                "infra_losses": 0,
                "event_seq": 1,
                "priority": number % 3,
                "device_class": "any",
                "input": {"model": MODEL, "bits": 2},
                "labels": {"team": f"team{number % 1000}"},
                "metadata": {},
                "created_at": moment,
                "run_after": moment,
            }
            for number in range(count)
        ]
        connection.execute(insert(jobs), rows)
        labels = [
            {"job_id": row["id"], "key": "team", "value": f"team{number % 1000}"}
            for number, row in enumerate(rows)
        ]
        connection.execute(insert(job_labels), labels)


def analyze(database: Database) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("ANALYZE")


def queries(settings: Settings) -> dict[str, Callable[[Connection], Any]]:
    team = {"team": "team7"}
    return {
        "list": lambda c: repository.list_jobs(c, limit=20),
        "list of a state": lambda c: repository.list_jobs(c, state=State.RUNNING, limit=20),
        "list of an owner": lambda c: repository.list_jobs(c, owner="owner7", limit=20),
        "list of an owner and a state": lambda c: repository.list_jobs(
            c, owner="owner7", state=State.RUNNING, limit=20
        ),
        "list of a label": lambda c: repository.list_jobs(c, labels=team, limit=20),
        "list of a label nobody has": lambda c: repository.list_jobs(
            c, labels={"team": "nobody"}, limit=20
        ),
        "list of a model nobody has": lambda c: repository.list_jobs(c, model="nobody", limit=20),
        "sweep": lambda c: maintenance.sweep(c, settings),
    }


def measure(database: Database, settings: Settings, count: int) -> Iterator[dict[str, Any]]:
    took = [timed(database, claim) for _ in range(CLAIMS)]
    yield {
        "query": "claim",
        "queued": count,
        "p50_ms": round(median(took), 2),
        "p95_ms": round(quantiles(took, n=20)[18], 2),
    }
    for name, query in queries(settings).items():
        took = [timed(database, query) for _ in range(5)]
        yield {
            "query": name,
            "queued": count,
            "p50_ms": round(median(took), 2),
            "p95_ms": round(max(took), 2),
        }


def claim(connection: Connection) -> Job:
    job = leases.claim(connection, worker_id="load", device_class="cpu", lease_ttl_s=3600)
    assert job is not None
    return job


def timed(database: Database, query: Callable[[Connection], Any]) -> float:
    began = time.perf_counter()
    with database.begin() as connection:
        query(connection)
    return 1000 * (time.perf_counter() - began)


def explain(database: Database, settings: Settings) -> Iterator[dict[str, str]]:
    for name, query in {"claim": claim, **queries(settings)}.items():
        with database.begin() as connection, selects(connection) as asked:
            query(connection)
        how = "EXPLAIN (ANALYZE, TIMING OFF)" if database.is_postgresql else "EXPLAIN QUERY PLAN"
        for statement, parameters in asked:
            with database.begin() as connection:
                began = time.perf_counter()
                connection.exec_driver_sql(statement, parameters).all()
                took = 1000 * (time.perf_counter() - began)
                found = connection.exec_driver_sql(f"{how} {statement}", parameters)
                plan = "\n".join(str(row[-1]) for row in found)
            where = statement.partition("WHERE")[2].replace("\n", " ")
            yield {"query": f"{name}: {where[:150].strip()}", "ms": f"{took:.1f}", "plan": plan}


@contextmanager
def selects(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """The SELECTs that are sent through a connection, with their parameters."""
    found: list[tuple[str, Any]] = []

    def keep(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith("SELECT"):
            found.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", keep)
    yield found
    event.remove(connection, "before_cursor_execute", keep)
