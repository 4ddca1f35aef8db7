"""Where a model is: the models directory first, then the hub.

`locate` when a job is accepted, `inspect` before it is, `fetch` when it runs.
"""

import functools
import hashlib
import os
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from pydantic import SecretStr

from apiq_core.config import LEGAL_MODEL_ID, is_model_id
from apiq_core.errors import InfraError, UserError
from apiq_core.inspect import ModelFacts, check_files, facts_from, inspect_model
from jobs import hub
from jobs.settings import Settings

LOCAL = "local:"


@dataclass(frozen=True)
class Located:
    """A model that was found, at the revision that was found."""

    model_id: str
    revision: str  # a commit of the hub, or `local:` and a fingerprint of the files
    directory: Path | None  # None: on the hub
    on_hub: hub.HubModel | None = None


def locate(
    model_id: str, revision: str | None, settings: Settings, hub_token: SecretStr | None = None
) -> Located:
    """Find a model and pin its revision.

    Without a revision the models directory is asked first. A revision `local:...` is of the
    models directory only, any other of the hub only. Raises `UserError` saying where it looked.
    """
    if not is_model_id(model_id):
        raise UserError(
            "illegal_model_id",
            f"{model_id!r} is not a model id; legal: {LEGAL_MODEL_ID}",
            param="model",
            value=model_id,
            legal=LEGAL_MODEL_ID,
        )
    wants_local = revision is None or revision.startswith(LOCAL)
    directory = _local_directory(model_id, settings.models_dir)
    if wants_local and directory is not None:
        found = local_revision(directory)
        if revision not in (None, found):
            raise UserError(
                "model_changed",
                f"{model_id} in the models directory is now {found}, not {revision}",
                param="revision",
                value=revision,
                legal=found,
            )
        return Located(model_id, found, directory)
    looked = f"in the models directory ({settings.models_dir / model_id})"
    if revision is not None and wants_local:
        raise _not_found(model_id, f"{looked}, as revision {revision} asks")
    try:
        token = None if hub_token is None else hub_token.get_secret_value()
        on_hub = hub.find_model(model_id, revision, timeout_s=settings.hub_timeout_s, token=token)
    except UserError as error:
        if error.code != "model_not_found":
            raise
        raise _not_found(model_id, f"{looked} and on the hub ({hub.endpoint()})") from None
    except InfraError:
        if revision is not None:  # whoever names a revision knows that the model is there
            raise
        raise _not_found(
            model_id, f"{looked} and on the hub ({hub.endpoint()}), which does not answer"
        ) from None
    return Located(model_id, on_hub.commit, None, on_hub)


def is_local(model_id: str, revision: str | None, settings: Settings) -> bool:
    """Whether `locate` will look no further than the models directory, from a single glance."""
    wants_local = revision is None or revision.startswith(LOCAL)
    return wants_local and os.path.exists(settings.models_dir / model_id / "config.json")


def inspect(located: Located) -> ModelFacts:
    """The facts of a located model, from its headers alone; raises `UserError`."""
    if located.directory is not None:
        return _inspect_local(located.directory, located.revision)
    assert located.on_hub is not None
    names = located.on_hub.names
    if "config.json" not in names:
        raise UserError("missing_config", f"{located.model_id} has no config.json", param="model")
    config = hub.read_config(located.on_hub)
    check_files(names, config)
    return facts_from(config, hub.read_tensor_headers(located.on_hub))


@functools.lru_cache(maxsize=64)
def _inspect_local(directory: Path, revision: str) -> ModelFacts:
    """Read once: the revision is another one as soon as a file is."""
    return inspect_model(directory)


def fetch(located: Located, scratch_dir: Path, on_bytes: hub.OnBytes) -> Path:
    """The checkpoint as a directory: where it is if local, else downloaded to `scratch_dir`."""
    if located.directory is not None:
        return located.directory
    assert located.on_hub is not None
    scratch_dir.mkdir(parents=True, exist_ok=True)
    hub.download_model(located.on_hub, scratch_dir, on_bytes)
    return scratch_dir


def local_revision(directory: Path) -> str:
    """A fingerprint of a local checkpoint that is cheap: it never reads the weights.

    Over config.json and the name, size and modification time of every file beside it.
    """
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for entry in sorted(os.scandir(directory), key=attrgetter("name")):
        if entry.is_file():
            facts = entry.stat()
            digest.update(f"\n{entry.name}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    return LOCAL + digest.hexdigest()[:16]


def _local_directory(model_id: str, models_dir: Path) -> Path | None:
    """`models_dir/model_id` if it is a checkpoint; links that lead outside are not followed."""
    directory = models_dir / model_id
    if not (directory / "config.json").is_file():
        if directory.is_dir() and any(path.is_file() for path in directory.iterdir()):
            raise UserError("missing_config", f"{model_id} has no config.json", param="model")
        return None
    above = (models_dir / part for part in Path(model_id).parents if part.name)
    inside = (Path(entry) for entry in os.scandir(directory) if entry.is_symlink())
    links = [path for path in (directory, *above) if path.is_symlink()] + list(inside)
    for path in links:
        if not path.resolve().is_relative_to(models_dir.resolve()):
            raise UserError(
                "model_outside",
                f"{path.relative_to(models_dir)} is a link that leads out of the models directory",
                param="model",
                value=model_id,
                legal="files inside the models directory",
            )
    return directory


def _not_found(model_id: str, looked: str) -> UserError:
    return UserError(
        "model_not_found",
        f"there is no model {model_id}; looked {looked}",
        param="model",
        value=model_id,
    )
