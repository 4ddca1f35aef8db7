"""What tests of more than one room share: both columns of the service, fresh for each test.

`embedded` is SQLite, files for a broker and a directory; `production` is PostgreSQL, Redis and
S3, on real servers. A test that asks for `settings` runs on both, unless it says that it is
about one: `@pytest.mark.column("embedded")`.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore, open_store
from jobs.database import Database
from jobs.settings import Settings
from migrations.__main__ import upgrade
from tests.columns import EMBEDDED, PRODUCTION, Column, production
from tests.servers import Servers

OpenColumn = Callable[[str], AbstractContextManager[Column]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "column_name" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("column")
        names = marker.args if marker else (EMBEDDED, PRODUCTION)
        metafunc.parametrize("column_name", names, scope="session")


@contextmanager
def running_servers() -> Iterator[Servers]:
    # not under pytest's own directory: it is closed to other users, and PostgreSQL may be one
    with tempfile.TemporaryDirectory(prefix="apiq-servers-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        servers = Servers(Path(name))
        try:
            yield servers
        finally:
            servers.stop()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL, Redis and S3, shared; only what is asked for is started."""
    with running_servers() as servers:
        yield servers


@pytest.fixture
def own_servers() -> Iterator[Servers]:
    """The same for one test alone, which may break them."""
    with running_servers() as servers:
        yield servers


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the newest schema, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "apiq.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_template(servers: Servers) -> str:
    """The same on PostgreSQL: the name of a database to copy."""
    name = "migrated"
    servers.postgres.execute(f"CREATE DATABASE {name}")
    upgrade(servers.postgres.url(name))
    return name


@pytest.fixture(scope="session")
def open_column(request: pytest.FixtureRequest) -> OpenColumn:
    """Fresh records, broker and store of a column, for as long as the `with` lasts."""

    def opened(name: str) -> AbstractContextManager[Column]:
        if name == EMBEDDED:
            return nullcontext(Column(EMBEDDED, {}))
        assert name == PRODUCTION
        template = request.getfixturevalue("migrated_template")
        return production(request.getfixturevalue("servers"), template)

    return opened


@pytest.fixture
def column(open_column: OpenColumn, column_name: str) -> Iterator[Column]:
    with open_column(column_name) as column:
        yield column


@pytest.fixture
def settings(tmp_path: Path, column: Column) -> Settings:
    """The service's settings with short times, so that nobody waits for a lease for long."""
    return Settings(
        data_dir=tmp_path / "data",
        lease_ttl_s=3.0,
        heartbeat_interval_s=0.5,
        cancel_poll_s=0.1,
        cancel_grace_s=1.0,
        drain_grace_s=1.0,
        sweep_interval_s=0.3,
        retry_backoff_s=0.1,
        **column.addresses,
    )


@pytest.fixture
def database(settings: Settings, column: Column, migrated_file: Path) -> Iterator[Database]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if column.name == EMBEDDED:
        shutil.copyfile(migrated_file, settings.data_dir / "apiq.db")
    database = Database(settings.database_url)
    yield database
    database.dispose()


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    return open_store(settings)
