"""The service as Python: one method a call.

with Client() as client:
    job = client.quantize("HuggingFaceTB/SmolLM2-135M-Instruct", bits=2)
    client.wait(job.id)
    client.download_all(job.id, "out")
"""

import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from apiq_client.answers import Record, parse, raise_for_problem
from apiq_client.download import MANIFEST, OnBytes, check_directory, download
from apiq_client.errors import ApiqError, JobFailed, ProblemError, Unreachable
from apiq_client.events import follow_events
from apiq_client.outage import Outage
from apiq_client.records import (
    Artifact,
    ArtifactList,
    Dataset,
    Event,
    EventPage,
    Job,
    JobPage,
    Preview,
)

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 60.0  # of connecting, and of silence; the server sends a comment every 15 s
SLOW_TIMEOUT_S = 1800.0  # of silence, while the server fetches, stores or tokenizes a dataset
TRIES = 4  # of a call that may be repeated, while the server cannot be reached or serve
WAIT_S = 25.0  # of one question for a job's next change
MEDIA_TYPES = {  # of a dataset's file
    ".txt": "text/plain; charset=utf-8",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
}
KEY = re.compile(r"[\x21-\x7e]+")


class Client:
    """A connection to one server; `url` defaults to `APIQ_URL`, `api_key` to `APIQ_API_KEY`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.url = (url or os.environ.get("APIQ_URL") or DEFAULT_URL).rstrip("/")
        # httpx leaves Authorization out where a redirect leads to another origin (RFC 9110 15.4)
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=_authorization(api_key or os.environ.get("APIQ_API_KEY")),
                timeout=timeout_s,
                follow_redirects=True,
            )
            if self._http.base_url.scheme not in ("http", "https") or not self._http.base_url.host:
                raise httpx.InvalidURL("no http:// and a host")
        except httpx.InvalidURL as error:
            raise ApiqError(
                "illegal_url",
                f"the server's URL (APIQ_URL) is {self.url!r}: {error}; legal: http://host:port",
            ) from None
        self._slow = httpx.Timeout(timeout_s, read=SLOW_TIMEOUT_S)
        self._wait_s = min(WAIT_S, timeout_s / 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- jobs

    def quantize(self, model: str, bits: int | None = None, **fields: Any) -> Job:
        """Submit a job; `fields` are those of POST /jobs (`group_size=64`, `labels={...}`).

        Either `bits` or `bits_per_weight` is given.

        If the answer is lost it asks again: its idempotency key keeps that from making two jobs.
        """
        width = {} if bits is None else {"bits": bits}
        return self._submit({"model": model, **width, **fields})

    def finetune(self, base: str, dataset: str, **fields: Any) -> Job:
        """Submit a job that trains the adapter of `base`, a quantize job, on `dataset`.

        `base` may be a model id too; with `bits` (or `bits_per_weight`) the model is quantized
        first, as `quantize={"method": "loftq"}` or its like says, by a job that the answer
        `waits_for`. `fields` and a lost answer: as for `quantize`.
        """
        return self._submit({"type": "finetune", "base": base, "dataset": dataset, **fields})

    def _submit(self, body: dict[str, Any]) -> Job:
        headers = {"idempotency-key": str(uuid.uuid4())}
        return self._ask(Job, "POST", "/jobs", json=body, headers=headers)

    def job(self, job_id: str, *, wait_s: float = 0, after: int | None = None) -> Job:
        """The job. With `wait_s` (at most 60) once it changes, or after so many seconds; `after`
        is the `event_seq` that is known, of which a later one counts as a change."""
        params = {"wait": wait_s} if after is None else {"wait": wait_s, "after": after}
        return self._ask(Job, "GET", f"/jobs/{_part(job_id)}", params=params)

    def jobs(
        self,
        *,
        state: str | None = None,
        type: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Newest first, all pages; `limit` ends the iteration."""
        pages = self.job_pages(state=state, type=type, model=model, labels=labels, limit=limit)
        for page in pages:
            yield from page.jobs

    def job_pages(
        self,
        *,
        state: str | None = None,
        type: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[JobPage]:
        """The same by pages; the `next` of one, given as `after`, goes on behind it."""
        query: dict[str, Any] = {"state": state, "type": type, "model": model, "after": after}
        query |= {f"label.{key}": value for key, value in (labels or {}).items()}
        query = {key: value for key, value in query.items() if value is not None}
        left = limit
        while left is None or left > 0:
            wanted = query | {"limit": min(left or 100, 100)}
            page = self._ask(JobPage, "GET", "/jobs", params=wanted)
            yield page
            if page.next is None:
                return
            query["after"] = page.next
            left = None if left is None else left - len(page.jobs)

    def cancel(self, job_id: str) -> Job:
        return self._ask(Job, "POST", f"/jobs/{_part(job_id)}/cancel")

    def retry(self, job_id: str, *, hub_token: str | None = None) -> Job:
        """A new job like one that failed or was cancelled; a gated model needs its token again."""
        body = {} if hub_token is None else {"hub_token": hub_token}
        return self._ask(Job, "POST", f"/jobs/{_part(job_id)}/retry", json=body)

    def delete(self, job_id: str) -> None:
        """Delete an ended job and its artifacts."""
        self._request("DELETE", f"/jobs/{_part(job_id)}")

    def watch(self, job_id: str) -> Iterator[Job]:
        """The job each time it changed, until it has finished, through outages of minutes."""
        job = self.job(job_id)
        yield job
        outage = Outage(self.url)
        while not job.is_finished:
            try:
                changed = self.job(job_id, wait_s=self._wait_s, after=job.event_seq)
            except (ProblemError, Unreachable) as error:
                outage.endure(error)
                continue
            outage.is_over()
            if changed != job:
                job = changed
                yield job

    def wait(self, job_id: str) -> Job:
        """Block until the job has finished; raises `JobFailed` unless it succeeded."""
        *_, job = self.watch(job_id)
        if job.state != "succeeded":
            raise JobFailed(job.id, job.state, job.error)
        return job

    def events(self, job_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Event]:
        """The job's history; with `follow` until it has finished, through outages of minutes."""
        path = f"/jobs/{_part(job_id)}/events"
        if follow:
            yield from follow_events(self._http, self.url, path, after)
            return
        while page := self._ask(EventPage, "GET", path, params={"after": after}).events:
            yield from page
            after = page[-1].seq

    def logs(self, job_id: str, *, tail: int | None = None) -> str:
        """What the job's process printed."""
        params = {} if tail is None else {"tail": tail}
        return self._request("GET", f"/jobs/{_part(job_id)}/logs", params=params).text

    # -- artifacts

    def artifacts(self, job_id: str) -> list[Artifact]:
        return self._ask(ArtifactList, "GET", f"/jobs/{_part(job_id)}/artifacts").artifacts

    def download(
        self,
        job_id: str,
        artifact: Artifact,
        directory: str | Path,
        *,
        on_bytes: OnBytes | None = None,
    ) -> Path:
        """Fetch one file to `directory/artifact.path`; resumes, verifies its sha256."""
        path = f"/jobs/{_part(job_id)}/artifacts/{quote(artifact.path)}"
        return download(self._http, self.url, path, artifact, Path(directory), on_bytes)

    def download_all(
        self,
        job_id: str,
        directory: str | Path,
        *,
        artifacts: Iterable[Artifact] | None = None,
        on_bytes: OnBytes | None = None,
    ) -> list[Path]:
        """Fetch every artifact of a job, or those of `artifacts`.

        Raises `ApiqError(directory_taken)` where another job's files are.
        """
        check_directory(Path(directory), job_id)
        wanted = self.artifacts(job_id) if artifacts is None else artifacts
        return [
            self.download(job_id, artifact, directory, on_bytes=on_bytes)
            # the manifest first: it marks the directory as this job's
            for artifact in sorted(wanted, key=lambda artifact: artifact.path != MANIFEST)
        ]

    # -- datasets

    def upload_dataset(self, file: str | Path, *, name: str | None = None) -> Dataset:
        """Upload a UTF-8 text, `.txt`; use it as
        `calibration={"source": f"dataset:{dataset.id}"}`.

        Or rows to train on, from a `.jsonl` or `.ndjson` file. Lines that are no rows are in
        `errors` of the `ProblemError`.
        """
        file = Path(file)
        media_type = MEDIA_TYPES.get(file.suffix.lower())
        if media_type is None:
            legal = ", ".join(MEDIA_TYPES)
            raise ApiqError("unsupported_file", f"{file}: legal: a name that ends in {legal}")
        with file.open("rb") as content:
            return self._ask(
                Dataset,
                "POST",
                "/datasets",
                params={"name": name or file.name},
                content=content,
                headers={
                    "content-type": media_type,
                    "content-length": str(file.stat().st_size),
                },
                timeout=self._slow,
            )

    def fetch_dataset(
        self,
        hub: str,
        *,
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        hub_token: str | None = None,
        name: str | None = None,
    ) -> Dataset:
        """Let the server fetch a split of a dataset of the hub: its files of rows or of text."""
        body = {"hub": hub, "config": config, "split": split, "revision": revision}
        return self._ask(
            Dataset,
            "POST",
            "/datasets",
            params={} if name is None else {"name": name},
            json=body if hub_token is None else body | {"hub_token": hub_token},
            timeout=self._slow,
        )

    def datasets(self) -> list[Dataset]:
        """Newest first, of all pages."""
        query: dict[str, Any] = {"limit": 100}
        found: list[Dataset] = []
        while True:
            page = self._call("GET", "/datasets", params=query)
            found += map(Dataset.model_validate, page["datasets"])
            if page.get("next") is None:
                return found
            query["after"] = page["next"]

    def dataset(self, dataset_id: str) -> Dataset:
        return self._ask(Dataset, "GET", f"/datasets/{_part(dataset_id)}")

    def preview_dataset(
        self, dataset_id: str, *, base: str | None = None, max_length: int | None = None
    ) -> Preview:
        """Its first rows as training reads them; a text is one, of its first characters.

        With `base` (a job or a model id, as of `finetune`) in the tokens of that model, counted;
        `max_length` as of `finetune`, too.
        """
        asked = {"base": base, "max_length": max_length}
        params = {name: value for name, value in asked.items() if value is not None}
        path = f"/datasets/{_part(dataset_id)}/preview"
        return self._ask(Preview, "GET", path, params=params, timeout=self._slow)

    def delete_dataset(self, dataset_id: str) -> None:
        self._request("DELETE", f"/datasets/{_part(dataset_id)}")

    # -- the server

    def version(self) -> dict[str, Any]:
        return self._call("GET", "/version")

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        return self._ask(dict[str, Any], method, path, **arguments)

    def _ask(self, kind: type[Record], method: str, path: str, **arguments: Any) -> Record:
        return parse(kind, self._request(method, path, **arguments))

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        may_repeat = method == "GET" or "idempotency-key" in arguments.get("headers", {})
        tries = TRIES if may_repeat else 1
        while True:
            tries -= 1
            try:
                return raise_for_problem(self._http.request(method, path, **arguments))
            except httpx.RequestError as error:
                # a server that is slow is still at it, and would be at it twice
                is_slow = method == "GET" and isinstance(error, httpx.ReadTimeout)
                if not tries or is_slow:
                    raise Unreachable(self.url, error) from error
                time.sleep(0.1 * 2 ** (TRIES - tries))
            except ProblemError as error:
                if not (tries and method == "GET" and error.may_pass):
                    raise
                time.sleep(1.0 if error.retry_after_s is None else error.retry_after_s)


def _authorization(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if KEY.fullmatch(api_key) is None:  # never quoted: it may be all but a key
        raise ApiqError(
            "illegal_api_key",
            "the API key (APIQ_API_KEY) has characters that no key has; legal: apiq_...",
        )
    return {"authorization": f"Bearer {api_key}"}


def _part(identifier: str) -> str:
    """An id as one part of a path; `.` and `..` would be folded away by URL rules."""
    return quote(identifier, safe="").replace(".", "%2E")
