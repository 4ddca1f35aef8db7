"""The two columns of the service: what differs between one machine and many."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from uuid import uuid4

import botocore.loaders
import botocore.session
import pytest

from jobs.artifacts import ArtifactStore
from jobs.artifacts.directory import UNFINISHED, DirectoryStore
from jobs.artifacts.s3 import S3Store
from tests.servers import Servers

# boto3 reads megabytes of JSON for every client: a service makes one, these tests hundreds
botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)

EMBEDDED = "embedded"
PRODUCTION = "production"


class Addresses(TypedDict, total=False):
    """The settings that make a column: none for the embedded one."""

    database_url: str
    broker_url: str
    artifacts_url: str
    s3_public_url: str


@dataclass(frozen=True)
class Column:
    name: str
    addresses: Addresses


@contextmanager
def production(servers: Servers, template: str) -> Iterator[Column]:
    """A fresh copy of the database `template`, an empty Redis database, a fresh prefix on S3."""
    name = f"test_{uuid4().hex}"
    servers.postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    with servers.redis.client() as client:
        client.flushdb()
    addresses: Addresses = {
        "database_url": servers.postgres.url(name),
        "broker_url": servers.redis.url(0),
        "artifacts_url": f"s3://{servers.s3.bucket}/{name}",
        "s3_public_url": servers.s3.url,
    }
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in servers.s3.environment.items():
            patch.setenv(variable, value)
        yield Column(PRODUCTION, addresses)
    servers.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def stored_keys(store: ArtifactStore) -> set[str]:
    """Every object of a store, seen through the back door."""
    if isinstance(store, DirectoryStore):
        # os.walk, because folders may be deleted meanwhile
        found = (Path(top, name) for top, _, names in os.walk(store.root) for name in names)
        paths = (path.relative_to(store.root) for path in found)
        return {path.as_posix() for path in paths if path.parts[0] != UNFINISHED}
    assert isinstance(store, S3Store)
    pages = store._s3.get_paginator("list_objects_v2").paginate(
        Bucket=store.bucket, Prefix=store._prefix
    )
    entries = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {key.removeprefix(store._prefix) for key in entries}
