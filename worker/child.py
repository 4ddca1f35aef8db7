"""The process in which one attempt of a job runs: the only place of the service with torch.

A crash, an out-of-memory kill or a CUDA fault ends this process, not the worker.
"""

import hashlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from apiq_core.errors import InfraError, UserError
from apiq_core.events import Event
from jobs import finetunes, models, texts
from jobs.artifacts import ArtifactStore, open_store
from jobs.datasets.files import fetch_dataset
from jobs.requests import FinetuneRequest, QuantizeRequest
from jobs.settings import Settings
from worker import bases, patience
from worker.wire import Link, Spec, serve

PROGRESS_INTERVAL_S = 1.0


def work(link: Link) -> dict[str, Any]:
    """Whatever the job is; the result is told to the supervisor."""
    kinds = {"quantize": quantize_job, "finetune": finetune_job}
    try:
        return kinds[link.spec.input["type"]](link)
    except UserError as error:
        if error.code != "illegal_device":
            raise
        # the core's user is here the worker: another host may have what `APIQ_DEVICE` names
        raise InfraError(error.code, error.message, value=error.value) from None


def quantize_job(link: Link) -> dict[str, Any]:
    """Bring model and texts here, then let the core work."""
    spec = link.spec
    scratch_dir = Path(spec.scratch_dir)
    settings = Settings(**spec.settings)
    request = QuantizeRequest.from_input(spec.input)
    config = request.config()

    link.on_event(Event("phase", {"phase": "downloading"}))
    located = models.locate(request.model, request.revision, settings, _token(spec))
    fetch = partial(texts.fetch_texts, config, scratch_dir / "texts", open_store(settings))
    with models.fetched(located, settings, Download(link).on_bytes) as model_dir:
        found = patience.with_store(fetch, link.check)

        from apiq_core.quantize import quantize  # torch: seconds to import, so not before it has to

        report = quantize(
            model_dir,
            spec.out_dir,
            config,
            on_event=link.on_event,
            should_stop=link.should_stop,
            texts=found,
            device=settings.device,
            model_name=request.model,
        )
    return {"metrics": report.headline(), "text_sha256": fingerprints(found)}


@finetunes.naming_base()
def finetune_job(link: Link) -> dict[str, Any]:
    """Bring base and dataset here, then let the core work."""
    spec = link.spec
    scratch_dir = Path(spec.scratch_dir)
    settings = Settings(**spec.settings)
    store = open_store(settings)
    request = FinetuneRequest.from_input(spec.input)

    link.on_event(Event("phase", {"phase": "downloading"}))
    with base_of(request, link, settings, store) as (model_dir, adapter_dir, is_on_hub):
        fetch = partial(fetch_dataset, scratch_dir=scratch_dir / "data", store=store)
        data = {
            dataset_id: patience.with_store(
                partial(fetch, dataset_id, spec.input["dataset_kind"]), link.check
            )
            for dataset_id in (request.dataset, request.validation)
            if dataset_id is not None
        }

        from apiq_core.finetune.finetune import finetune

        report = finetune(
            model_dir,
            adapter_dir,
            data[request.dataset],
            spec.out_dir,
            request.config(),
            validation=None if request.validation is None else data[request.validation],
            on_event=link.on_event,
            should_stop=link.should_stop,
            device=settings.device,
            base_name=request.base,
            model_name=spec.input["model"],
            is_job=request.base_job is not None,
            is_on_hub=is_on_hub,
            bits=request.bits,
        )
    return {"metrics": report.headline(), "text_sha256": fingerprints(data)}


@contextmanager
def base_of(
    request: FinetuneRequest, link: Link, settings: Settings, store: ArtifactStore
) -> Iterator[tuple[Path, Path | None, bool]]:
    """The folders of what is trained on, its adapter's if it has one: a model's, or a job's. And
    whether it is on the hub."""
    if request.base_job is None:
        located = models.locate(request.base, request.revision, settings, _token(link.spec))
        with models.fetched(located, settings, Download(link).on_bytes) as model_dir:
            yield model_dir, None, located.on_hub is not None
        return
    folder = Path(link.spec.scratch_dir) / "base"
    bases.fetch(link.spec.base_files, folder, store, link.check)
    adapter_dir = folder / "adapter"
    yield folder / "model", adapter_dir if adapter_dir.is_dir() else None, False


class Download:
    """The progress of a download, told now and then; a stop order ends it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._start = time.monotonic()
        self._told = 0.0

    def on_bytes(self, done: int, total: int) -> None:
        self._link.check()
        now = time.monotonic()
        if now - self._told < PROGRESS_INTERVAL_S and done < total:
            return
        self._told = now
        left_s = (now - self._start) * (total - done) / done if done else None
        progress = {
            "done": done,
            "total": total,
            "unit": "byte",
            "percent": round(100 * done / total, 1) if total else 100.0,
            "eta_seconds": None if left_s is None else round(left_s, 1),
        }
        self._link.on_event(Event("progress", progress))


def _token(spec: Spec) -> SecretStr | None:
    return None if spec.hub_token is None else SecretStr(spec.hub_token)


def fingerprints(files: Mapping[str, Path]) -> dict[str, str]:
    """sha256 of each text by its source. `builtin` is fixed by the version of Python."""
    found = {}
    for source, path in sorted(files.items()):
        with path.open("rb") as file:
            found[source] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)  # of libraries, about each other
    sys.exit(serve(work))
