"""What is true of the S3 store only: parts, broken connections, a server that is away."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs.artifacts import open_store
from jobs.artifacts import s3 as s3_store
from jobs.artifacts.s3 import PART_BYTES, S3Store
from jobs.errors import StoreUnavailable
from jobs.settings import Settings
from tests.columns import stored_keys
from tests.integration.client.cutting_proxy import Proxy, cutting_proxy
from tests.servers import Servers

pytestmark = pytest.mark.column("production")

BIG = os.urandom(1024 * 1024) * 20 + b"!"  # three parts


@pytest.fixture
def store(settings: Settings) -> S3Store:
    store = open_store(settings)
    assert isinstance(store, S3Store)
    return store


@pytest.fixture
def proxy(servers: Servers, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A way to the server that breaks."""
    with cutting_proxy(servers.s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(BIG)
    return path


def uploads(store: S3Store) -> list[str]:
    """Begun and neither finished nor dropped."""
    answer = store._s3.list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix)
    return [upload["Key"] for upload in answer.get("Uploads", ())]


def test_parts(store: S3Store, file: Path) -> None:
    stored = store.put_file("big", file)
    assert (stored.size_bytes, stored.sha256) == (len(BIG), hashlib.sha256(BIG).hexdigest())
    facts = store._s3.head_object(Bucket=store.bucket, Key=store._name("big"))
    assert facts["ETag"].endswith('-3"')  # as S3 marks an object of three parts
    assert b"".join(store.open_range("big")) == BIG
    around = (PART_BYTES - 3, PART_BYTES + 3)
    assert b"".join(store.open_range("big", *around)) == BIG[slice(*around)]
    assert uploads(store) == []


def test_an_upload_that_breaks_off_leaves_nothing(store: S3Store, file: Path) -> None:
    class Breaking(s3_store._Hashing):
        def read(self, size: int = -1) -> bytes:
            if self.size_bytes > PART_BYTES * 2:
                raise OSError(5, "the disk is broken")
            return super().read(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_store, "_Hashing", Breaking)
        with pytest.raises(OSError, match="the disk is broken"):
            store.put_file("big", file)
    assert (uploads(store), stored_keys(store)) == ([], set())


def test_a_download_goes_on_where_it_broke(
    store: S3Store, file: Path, proxy: Proxy, settings: Settings
) -> None:
    store.put_file("big", file)
    for start, end in ((0, None), (1_000_000, len(BIG) - 5)):
        through = open_store(settings)  # with no connection open yet
        proxy.requests.clear()
        proxy.cuts = [3_000_000, 5_000_000, 0, 10, 4_000_000]
        assert b"".join(through.open_range("big", start, end)) == BIG[start:end]
        assert proxy.cuts == []
        assert b"if-match" in proxy.requests[-1].lower()


def test_a_download_gives_up(
    store: S3Store, file: Path, proxy: Proxy, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "RESUME_PAUSE_S", 0.01)
    store.put_file("big", file)
    proxy.cuts = [3_000_000] + [100] * 1000  # then never more than the beginning of a head
    chunks = open_store(settings).open_range("big")
    next(chunks)
    with pytest.raises(StoreUnavailable, match="big"):
        list(chunks)


def test_a_download_never_mixes_two_versions(
    store: S3Store, file: Path, proxy: Proxy, settings: Settings
) -> None:
    store.put_file("big", file)
    proxy.cuts = [3_000_000]
    chunks = open_store(settings).open_range("big")
    next(chunks)
    file.write_bytes(BIG[::-1])
    store.put_file("big", file)
    with pytest.raises(StoreUnavailable, match="PreconditionFailed"):
        list(chunks)


def test_a_presigned_url_is_for_the_public_endpoint(
    store: S3Store, file: Path, servers: Servers, settings: Settings
) -> None:
    store.put_file("a/b", file)
    with cutting_proxy(servers.s3.url) as public:
        settings = settings.model_copy(update={"s3_public_url": public.url})
        url = open_store(settings).presigned_url("a/b")
        assert url is not None and url.startswith(public.url)
        assert servers.s3.secret not in url
        part = httpx.get(url, headers={"range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, BIG[5:10])
        assert httpx.get(url.replace("a/b", "a/c")).status_code == 403


def test_without_a_public_endpoint_nobody_is_sent_there(settings: Settings) -> None:
    hidden = settings.model_copy(update={"s3_public_url": ""})
    assert open_store(hidden).presigned_url("a/b") is None


def test_a_bucket_that_does_not_exist_is_named(settings: Settings, file: Path) -> None:
    store = open_store(settings.model_copy(update={"artifacts_url": "s3://no-such-bucket/x"}))
    for attempt in (store.check, lambda: store.put_file("key", file)):
        with pytest.raises(StoreUnavailable, match="'no-such-bucket', which does not exist"):
            attempt()


def test_wrong_credentials(settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    store = open_store(settings)
    for attempt in (store.check, lambda: store.put_file("key", file), lambda: store.size("key")):
        with pytest.raises(StoreUnavailable) as caught:
            attempt()
        assert "canary" not in str(caught.value)


def test_more_objects_than_a_page(store: S3Store, file: Path) -> None:
    file.write_bytes(b"x")
    for number in range(25):
        store.put_file(f"many/{number}", file)
    store.put_file("other", file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_store, "DELETE_BATCH", 10)
        store.delete_prefix("many")
    assert stored_keys(store) == {"other"}


def test_a_server_that_is_away_and_comes_back(
    own_servers: Servers, settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_servers.s3
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    store = open_store(settings)
    store.put_file("key", file)
    server.kill()
    began = time.monotonic()
    for attempt in (
        store.check,
        lambda: store.put_file("other", file),
        lambda: store.open_range("key"),
        lambda: store.size("key"),
        lambda: store.delete_prefix("key"),
    ):
        with pytest.raises(StoreUnavailable):
            attempt()
    assert time.monotonic() - began < 120
    server.start()
    assert b"".join(store.open_range("key")) == BIG
