"""Objects in a bucket of an S3-compatible store: the production store.

Endpoint, region and credentials are boto3's own business: `AWS_ENDPOINT_URL_S3`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, an instance's role, and so on.

A process that is killed in the middle of a large upload leaves its parts behind: invisible, but
paid for. Give the bucket a lifecycle rule `AbortIncompleteMultipartUpload` of a few days.
"""

import hashlib
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import boto3
import structlog
import uuid_utils
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError

from jobs.artifacts import Stored, check_key
from jobs.errors import ObjectNotFound, StoreUnavailable

CHUNK_BYTES = 1024 * 1024  # of a download
PART_BYTES = 8 * 1024 * 1024  # of an upload; a file of up to this size goes in one request
MAX_PARTS = 10_000  # S3's own limit
PARALLEL_PARTS = 4  # at once in memory and on the way, twice: being sent, and read ahead
DELETE_BATCH = 1000  # S3's own limit

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
TRIES = 4  # of one request, with botocore's pauses in between
RESUMES = 5  # of a broken download, in a row that bring not a single byte
RESUME_PAUSE_S = 0.2  # after the first; doubles with each

PRESIGNED_TTL_S = 3600

NOT_FOUND = ("404", "NoSuchKey", "NotFound")

log = structlog.get_logger(__name__)


class S3Store:
    """An `ArtifactStore` in a bucket, which must exist."""

    def __init__(self, bucket: str, prefix: str = "", public_url: str | None = None) -> None:
        """Keys go under `prefix/`. `public_url`: the endpoint that clients reach, if they
        reach one; without it there are no presigned URLs."""
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._s3 = _client(None)
        self._public = _client(public_url) if public_url else None

    def put_file(self, key: str, path: Path) -> Stored:
        name = self._name(key)
        with path.open("rb") as file, self._errors("store", key):
            source = _Hashing(file)
            self._s3.upload_fileobj(
                source, self.bucket, name, Config=_upload_config(path.stat().st_size)
            )
        return Stored(source.size_bytes, source.digest.hexdigest())

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        name = self._name(key)
        if end is not None and end <= start:
            self.size(key)
            return iter(())
        return _Download(self, key, name, start, end)

    def size(self, key: str) -> int:
        with self._errors("look at", key):
            facts = self._s3.head_object(Bucket=self.bucket, Key=self._name(key))
        return int(facts["ContentLength"])

    def delete_prefix(self, prefix: str) -> None:
        name = self._name(prefix)
        with self._errors("delete", prefix):
            self._s3.delete_object(Bucket=self.bucket, Key=name)
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{name}/", PaginationConfig={"PageSize": DELETE_BATCH}
            )
            for page in pages:
                self._delete([entry["Key"] for entry in page.get("Contents", ())])

    def presigned_url(self, key: str) -> str | None:
        if self._public is None:
            return None
        with self._errors("sign a URL of", key):
            url = self._public.generate_presigned_url(
                "get_object",
                Params={"Bucket": self.bucket, "Key": self._name(key)},
                ExpiresIn=PRESIGNED_TTL_S,
            )
        return str(url)

    def prune(self) -> None:
        """Nothing: an object appears whole, and parts are left to the bucket's lifecycle rule."""

    def check(self) -> None:
        """Begins an upload and drops it: that takes the right to write, and leaves no object."""
        key = f"check-{uuid_utils.uuid4()}"
        where = {"Bucket": self.bucket, "Key": self._name(key)}
        with self._errors("store", key):
            begun = self._s3.create_multipart_upload(**where)
            self._s3.abort_multipart_upload(**where, UploadId=begun["UploadId"])

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _delete(self, names: list[str]) -> None:
        if not names:
            return
        objects = {"Objects": [{"Key": name} for name in names], "Quiet": True}
        failed = self._s3.delete_objects(Bucket=self.bucket, Delete=objects).get("Errors", ())
        if failed:
            first = failed[0]
            raise StoreUnavailable(
                f"{len(failed)} of {len(names)} objects could not be deleted; the first: "
                f"{first.get('Key')}: {first.get('Code')}"
            )

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        """Every error of boto3 as one that callers know, in words without secrets."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in NOT_FOUND:
                raise ObjectNotFound(f"the artifact store has no {key}") from None
            if code == "NoSuchBucket":
                raise StoreUnavailable(
                    f"artifacts_url names the bucket {self.bucket!r}, which does not exist: make it"
                ) from error
            raise StoreUnavailable(
                f"the bucket {self.bucket!r} refused to {doing} {key}: {code}"
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise StoreUnavailable(f"could not {doing} {key}: {_words(error)}") from error


class _Download(Iterator[bytes]):
    """The bytes of an object. Where the connection breaks it goes on with another request, for
    the rest and of the same version. A download that ends early is never taken for a whole one.
    """

    def __init__(self, store: S3Store, key: str, name: str, start: int, end: int | None) -> None:
        self._store = store
        self._key = key
        self._name = name
        self._position = start
        self._end = end
        self._version: str | None = None
        self._fruitless = 0
        self._body: Any = None
        while self._body is None:
            try:
                self._open()
            except IncompleteReadError as error:
                self._pause(error)

    def __next__(self) -> bytes:
        while self._position != self._end:
            try:
                if self._body is None:
                    self._open()
                chunk: bytes = self._body.read(CHUNK_BYTES)
                if not chunk:
                    raise _cut_short(self._position, self._end)
            except BotoCoreError as error:
                self._pause(error)
                continue
            self._position += len(chunk)
            self._fruitless = 0
            return chunk
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Give the connection up; nothing comes any more."""
        self._end = self._position
        if self._body is not None:
            self._body.close()

    def _pause(self, error: BotoCoreError) -> None:
        """Before the next try; raises when it was the last."""
        if self._body is not None:
            self._body.close()
            self._body = None
        self._fruitless += 1
        if self._fruitless > RESUMES:
            raise StoreUnavailable(f"{self._key} breaks off: {_words(error)}") from error
        log.info("download_resumed", key=self._key, position=self._position, error=_words(error))
        time.sleep(RESUME_PAUSE_S * 2 ** (self._fruitless - 1))

    def _open(self) -> None:
        asked: dict[str, str] = {}
        if self._position or self._end is not None:
            last = "" if self._end is None else self._end - 1
            asked["Range"] = f"bytes={self._position}-{last}"
        if self._version is not None:
            asked["IfMatch"] = self._version
        try:
            with self._store._errors("read", self._key):
                answer = self._store._s3.get_object(
                    Bucket=self._store.bucket, Key=self._name, **asked
                )
        except StoreUnavailable as error:
            if _status(error) != 416:
                raise
            self._body, self._end = io.BytesIO(), self._position  # nothing lies there
            return
        # a head that was cut off is no error to the HTTP library
        needed = {"ETag", "ContentLength"} | ({"ContentRange"} if "Range" in asked else set())
        if not needed <= answer.keys():
            raise _cut_short(self._position, self._end)
        self._body, self._version = answer["Body"], answer["ETag"]
        self._end = self._position + int(answer["ContentLength"])


class _Hashing:
    """A file that is read once, from front to back: what is hashed is what is sent."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self._file = file

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.digest.update(chunk)
        self.size_bytes += len(chunk)
        return chunk


def _client(endpoint_url: str | None) -> Any:
    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        max_pool_connections=50,  # the API answers from at most 40 threads
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)


def _upload_config(size_bytes: int) -> TransferConfig:
    part_bytes = max(PART_BYTES, -(-size_bytes // MAX_PARTS))
    config = TransferConfig(
        multipart_threshold=part_bytes,
        multipart_chunksize=part_bytes,
        max_concurrency=PARALLEL_PARTS,
        preferred_transfer_client="classic",
    )
    config.max_in_memory_upload_chunks = PARALLEL_PARTS
    return config


def _status(error: StoreUnavailable) -> int | None:
    """The HTTP status that the store answered with, if it answered."""
    if isinstance(error.__cause__, ClientError):
        return int(error.__cause__.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return None


def _cut_short(position: int, end: int | None) -> IncompleteReadError:
    return IncompleteReadError(actual_bytes=position, expected_bytes=end)


def _words(error: Exception) -> str:
    """What boto3 says, without what may stand in an address: a password, a signature."""
    return re.sub(r"//[^/\s@]*@|\?\S*", lambda m: "//" if m[0].startswith("//") else "", str(error))
