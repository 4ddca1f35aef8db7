"""How many requests a second, beside a bare FastAPI route that answers a constant.

The kinds take turns in short rounds, so that whatever else the machine does hits all of them.
"""

import asyncio
import json
from collections.abc import Callable
from statistics import median

from benchmarks.load.http_client import Figures, measure, request
from benchmarks.load.service import COLUMNS, MODEL, api, column, server
from benchmarks.report import show, write
from jobs import repository
from jobs.database import Database

ROUNDS = 4
REQUESTS = 300  # of each kind in a round
CONNECTIONS = 8
JOBS = 1000  # in the database beforehand
BODY = json.dumps({"model": MODEL, "bits": 2, "group_size": 32}).encode()

Kind = tuple[int, Callable[[int], bytes], int]  # port, request number -> bytes, status


def main() -> None:
    rows = []
    for name in COLUMNS:
        with column(name) as settings:
            database = Database(settings.database_url)
            with database.begin() as connection:
                ids = [
                    repository.accept(connection, type="quantize", input={"model": MODEL}).id
                    for _ in range(JOBS)
                ]
            database.dispose()
            with (
                server(["-m", "benchmarks.load.bare"], settings, "/") as (_, bare_port),
                api(settings) as (_, port),
            ):
                rows += [
                    {"column": name, **row}
                    for row in asyncio.run(compare(kinds(bare_port, port, ids)))
                ]
    show(f"requests over {CONNECTIONS} connections, median of {ROUNDS} rounds", rows)
    write("load-api", {"rows": rows})


def kinds(bare_port: int, port: int, ids: list[str]) -> dict[str, Kind]:
    def get(path: str) -> Kind:
        return port, lambda _: request("GET", path), 200

    return {
        "bare": (bare_port, lambda _: request("GET", "/"), 200),
        "GET /healthz": get("/healthz"),
        "GET /jobs/{id}": (port, lambda n: request("GET", f"/jobs/{ids[n % len(ids)]}"), 200),
        "GET /jobs?limit=20": get("/jobs?limit=20"),
        "POST /jobs": (port, lambda _: request("POST", "/jobs", BODY), 202),
    }


async def compare(kinds: dict[str, Kind]) -> list[dict[str, object]]:
    rounds: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for number in range(ROUNDS + 1):
        for kind, (port, make, status) in kinds.items():
            found = await measure(
                port, make, count=REQUESTS, connections=CONNECTIONS, status=status
            )
            if number:  # the first warms up
                rounds[kind].append(found)
    bare = [figures.per_second for figures in rounds["bare"]]
    return [
        {
            "request": kind,
            "per_second": round(median(f.per_second for f in found), 1),
            "to_bare": round(median(f.per_second / b for f, b in zip(found, bare, strict=True)), 3),
            **{
                name: round(median(getattr(f, name) for f in found), 2)
                for name in ("p50_ms", "p95_ms", "p99_ms")
            },
        }
        for kind, found in rounds.items()
    ]
