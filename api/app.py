"""The app: routes, errors and limits put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import document, health, metrics, problems
from api.context import Context
from api.datasets import routes as datasets
from api.expiry import Expiry
from api.head import Head
from api.hosts import LoopbackOnly
from api.jobs import artifacts, events, logs
from api.jobs import routes as jobs
from api.limits import BodyLimit, BodyTimeout
from api.queries import CheckQuery
from jobs.artifacts import open_store
from jobs.database import Database
from jobs.settings import Settings

FEATURES = (jobs, events, logs, artifacts, datasets, health, metrics)


def create_app(settings: Settings) -> FastAPI:
    """An app on a database and an artifact store; connects when it is first asked."""
    context = Context(settings, Database(settings.database_url), open_store(settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        expiry = Expiry(context.database, settings)
        expiry.start()
        context.bell.start()
        yield
        context.bell.stop()
        expiry.stop()
        # a connection that is in use now would be nobody's after `dispose`
        for asking in (
            context.watcher,
            context.shown,
            context.default_source,
            context.accepted,
            context.keyed,
            context.ready,
        ):
            await asking.close()
        context.database.dispose()

    app = FastAPIOffline(  # /docs with scripts of our own, not of a CDN
        title="apiq",
        version=version("apiq"),
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},  # else a badge asks swagger.io
        # not by include_router: it would have every request matched twice
        routes=[route for feature in FEATURES for route in feature.router.routes],
        separate_input_output_schemas=False,
    )
    app.state.context = context
    app.state.metrics = metrics.Metrics(context)
    problems.install(app)
    document.install(app)
    app.add_middleware(CheckQuery)
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(BodyTimeout, client_timeout_s=settings.client_timeout_s)
    if settings.secret_key is None:
        app.add_middleware(LoopbackOnly, host=settings.host)
    app.add_middleware(metrics.RequestMetrics, metrics=app.state.metrics)
    app.add_middleware(Head)
    return app
