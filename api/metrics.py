"""Figures for Prometheus: requests by route, jobs by state."""

import functools
import time
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as render
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import Admin
from api.context import Context
from api.head import MARK
from api.problems import keyed
from jobs import counts
from jobs.states import State

router = APIRouter(tags=["service"])

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The figures of one app, in a registry of its own."""

    def __init__(self, context: Context) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "apiq_http_requests", "Requests answered", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "apiq_http_request_seconds",
            "Time until the response began",
            ("method", "route"),
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_JobsByState(context))
        self.of = functools.cache(self._of)  # to find a label's figures takes longer than to count

    def _of(self, method: str, route: str, status: int) -> tuple[Histogram, Counter]:
        seconds = self.seconds.labels(method, route)
        return seconds, self.requests.labels(method, route, str(status))


class _JobsByState(Collector):
    """Counted in the database when asked: every API process gives the same answer."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # so that registering does not ask the database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._context.database.read() as connection:
            found = counts.by_state(connection)
        jobs = GaugeMetricFamily("apiq_jobs", "Jobs by state", labels=["state"])
        for state in State:
            jobs.add_metric([state.value], found.get(state, 0))
        yield jobs


class RequestMetrics:
    """ASGI middleware: counts by route template, never by path (ids would be endless)."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = "HEAD" if MARK in scope else scope["method"]
                # a client can make methods up, and each would be kept for ever
                method = method if method in METHODS else "OTHER"
                seconds, requests = self.metrics.of(method, route, message["status"])
                seconds.observe(time.perf_counter() - began)
                requests.inc()
            await send(message)

        await self.app(scope, receive, observed)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses=keyed(
        beside={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}}
    ),
)
def get_metrics(request: Request, caller: Admin) -> Response:
    """Requests by route, and jobs by state."""
    metrics: Metrics = request.app.state.metrics
    return Response(render(metrics.registry), media_type=CONTENT_TYPE_LATEST)
