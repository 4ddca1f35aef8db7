"""From the folder a child leaves behind to objects, a manifest and a list of artifacts."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from jobs.artifacts import MANIFEST, ArtifactStore, files_prefix
from jobs.job import Artifact, Job
from jobs.states import State
from worker import patience

# fields of a job's input that say what it was made from, not how
ORIGIN = (
    "type",
    "model",
    "revision",
    "context_length",
    "narrowest_channels",
    "has_chat_template",
    "base",
    "base_manifest_sha256",
    "dataset",
    "validation",
    "dataset_kind",
)
REPORT = "report.json"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".jinja": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

log = structlog.get_logger(__name__)


def upload(
    store: ArtifactStore,
    job: Job,
    out_dir: Path,
    text_sha256: Mapping[str, str],
    check: Callable[[], None],
) -> list[Artifact]:
    """Store every file of `out_dir` and a manifest of them under this attempt's prefix.

    `check` is called before each try and may raise. Nothing is visible before the artifacts
    are committed. Raises `OSError`, of a store that stays away.
    """
    files: list[Artifact] = []
    for path in sorted(path for path in out_dir.rglob("*") if path.is_file()):
        files.append(_put(store, job, path, path.relative_to(out_dir).as_posix(), check))
    manifest = out_dir / MANIFEST
    manifest.write_text(
        json.dumps(_manifest(job, out_dir, files, text_sha256), indent=1) + "\n", encoding="utf-8"
    )
    return [*files, _put(store, job, manifest, MANIFEST, check)]


def discard(store: ArtifactStore, job: Job) -> None:
    """Delete the files of every attempt up to this one, except what is published.

    Never fails: nobody sees what is left, and the job has ended.
    """
    for attempt in range(1, job.attempt + 1):
        if job.state != State.SUCCEEDED or attempt != job.attempt:
            try:
                store.delete_prefix(files_prefix(job.id, attempt))
            except OSError as error:
                log.warning("not_discarded", job=job.id, attempt=attempt, error=repr(error))


def _put(
    store: ArtifactStore, job: Job, path: Path, name: str, check: Callable[[], None]
) -> Artifact:
    key = f"{files_prefix(job.id, job.attempt)}/{name}"
    stored = patience.with_store(lambda: store.put_file(key, path), check)
    content_type = CONTENT_TYPES.get(path.suffix, "application/octet-stream")
    return Artifact(name, stored.size_bytes, stored.sha256, content_type, key)


def _manifest(
    job: Job, out_dir: Path, files: list[Artifact], text_sha256: Mapping[str, str]
) -> dict[str, Any]:
    """What it takes to make the same again, and to check that nothing was changed since."""
    report = out_dir / REPORT
    facts = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    config = {k: v for k, v in job.input.items() if k not in ORIGIN}
    origin = {name: job.input[name] for name in ORIGIN if name in job.input}
    return {
        "job": job.id,
        "attempt": job.attempt,
        **origin,
        "config": config,  # the seed is one of its fields
        "calibration": (facts.get("calibration") or {}) | {"text_sha256": dict(text_sha256)},
        "device": facts.get("device"),
        "versions": facts.get("versions", {}),
        "files": [
            {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
            for file in files
        ],
    }
