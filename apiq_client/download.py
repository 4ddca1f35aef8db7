"""Fetch a file so that it is whole or not there: resume by Range, verify the sha256, rename."""

import hashlib
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import httpx

from apiq_client.answers import raise_for_problem
from apiq_client.errors import ApiqError, DownloadError, ProblemError
from apiq_client.outage import Outage
from apiq_client.records import Artifact

OnBytes = Callable[[int], None]  # called with the number of bytes that just became available

MANIFEST = "manifest.json"  # tells whose files a directory has
CHUNK_BYTES = 1024 * 1024


def check_directory(directory: Path, job_id: str | None) -> None:
    """Refuse a directory with another job's files: what only that job has would stay among ours.

    A job without an id is one that is not submitted yet.
    """
    try:
        there = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["job"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there != job_id:
        raise ApiqError(
            "directory_taken",
            f"the folder {directory.resolve()} has the files of another job, {there}; legal: "
            f"another folder, or that one emptied (`apiq artifacts download {there} --dir "
            f"{shlex.quote(str(directory))}` goes on with those)",
        )


def download(
    http: httpx.Client,
    url: str,
    path: str,
    artifact: Artifact,
    directory: Path,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Fetch `path` to `directory/artifact.path`.

    What an earlier try left in `NAME.part` is kept and continued. A file that is there already
    with the right content is not fetched again.
    """
    target = _target(directory, artifact.path)
    report = on_bytes or (lambda _: None)
    if _matches(target, artifact):
        report(artifact.size_bytes)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    with part.open("ab+") as file:
        done_bytes = _hash_existing(file.fileno(), digest, artifact.size_bytes)
        report(done_bytes)
        outage = Outage(url)
        while done_bytes < artifact.size_bytes:
            # the server must not compress: ranges count stored bytes. No If-Range: an object store
            # that it redirects to has ETags of its own, and the sha256 is checked anyway
            headers = {"range": f"bytes={done_bytes}-", "accept-encoding": "identity"}
            try:
                with http.stream("GET", path, headers=headers) as response:
                    _check_answer(response, done_bytes)
                    for chunk in response.iter_raw():  # as it arrives: a break loses nothing
                        file.write(chunk)
                        digest.update(chunk)
                        done_bytes += len(chunk)
                        report(len(chunk))
                        outage.is_over()
            except (httpx.RequestError, ProblemError) as error:
                outage.endure(error)
        file.flush()
        os.fsync(file.fileno())
    if done_bytes != artifact.size_bytes or digest.hexdigest() != artifact.sha256:
        part.unlink()
        raise DownloadError(
            f"{artifact.path} arrived with sha256 {digest.hexdigest()}, not {artifact.sha256}; "
            "it was removed, fetch it again"
        )
    os.replace(part, target)
    return target


def _target(directory: Path, artifact_path: str) -> Path:
    """Where a file goes; a server cannot make us write outside of `directory`."""
    path = PurePosixPath(artifact_path)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in artifact_path:
        raise DownloadError(f"the server names an artifact {artifact_path!r}: not a relative path")
    target = directory.joinpath(*path.parts)
    if not target.resolve().is_relative_to(directory.resolve()):
        raise DownloadError(f"{artifact_path!r} leads out of {directory}")
    return target


def _matches(file: Path, artifact: Artifact) -> bool:
    if not file.is_file() or file.stat().st_size != artifact.size_bytes:
        return False
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == artifact.sha256


def _hash_existing(descriptor: int, digest: "hashlib._Hash", size_bytes: int) -> int:
    """Hash what an earlier try left; more than the whole file cannot be a part of it."""
    if os.fstat(descriptor).st_size > size_bytes:
        os.ftruncate(descriptor, 0)
    done_bytes = 0
    while chunk := os.pread(descriptor, CHUNK_BYTES, done_bytes):
        digest.update(chunk)
        done_bytes += len(chunk)
    return done_bytes


def _check_answer(response: httpx.Response, done_bytes: int) -> None:
    raise_for_problem(response)
    expected = f"bytes {done_bytes}-"
    if response.status_code == 206:
        got = response.headers.get("content-range", "no content-range")
        if not got.startswith(expected):
            raise DownloadError(f"asked for {expected}, got {got}")
    elif done_bytes:
        raise DownloadError("the file changed on the server; remove the .part file and try again")
