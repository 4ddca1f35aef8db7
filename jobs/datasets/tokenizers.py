"""The tokenizer and config.json of what a finetune job may train, without the weights."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from apiq_core.errors import ApiQError, UserError
from apiq_core.inspect import COMPANIONS, check_files, read_json
from jobs import finetunes, hub, models, repository
from jobs.artifacts import ArtifactStore
from jobs.errors import JobNotFound
from jobs.job import Artifact
from jobs.requests import JOB_ID
from jobs.settings import Settings
from jobs.states import State

NEEDED = ("config.json", *COMPANIONS)
MODEL = "model/"  # where a quantize job's artifacts have them


def published_by(connection: Connection, base: str, owner: str | None) -> Sequence[Artifact] | None:
    """Where a base that is a job published them; None for a model id.

    Raises `UserError`: `base_not_found`, `illegal_base`, `base_not_ready`,
    `base_not_finished`.
    """
    if JOB_ID.fullmatch(base) is None:
        return None
    try:
        job = repository.get(connection, base, owner)
    except JobNotFound:
        raise finetunes.no_such_base(base) from None
    finetunes.check_is_quantize(job)
    if job.state != State.SUCCEEDED:
        raise UserError(
            "base_not_finished" if job.state in finetunes.READY else "base_not_ready",
            f"base is {base}, a job that is {job.state}; legal: a quantize job that has succeeded",
            param="base",
            value=base,
        )
    paths = {MODEL + name for name in NEEDED}
    return [file for file in repository.artifacts_of(connection, base) if file.path in paths]


def fetch_published(files: Sequence[Artifact], store: ArtifactStore, scratch_dir: Path) -> Path:
    """What a job published, as a directory."""
    for file in files:
        with (scratch_dir / file.path.removeprefix(MODEL)).open("wb") as out:
            for chunk in store.open_range(file.key):
                out.write(chunk)
    return scratch_dir


def fetch_of_model(model_id: str, settings: Settings, scratch_dir: Path) -> Path:
    """A model's, as a directory: where it is if local, else downloaded to `scratch_dir`.

    Raises what a job with that base would be refused for, but for what only weights tell.
    """
    try:
        located = models.locate(model_id, None, settings)
        if located.directory is not None:
            directory = located.directory
            names = [path.name for path in directory.iterdir()]
        else:
            assert located.on_hub is not None
            hub.download_plain_files(located.on_hub, NEEDED, scratch_dir)
            directory, names = scratch_dir, located.on_hub.names
        if "config.json" not in names:
            raise UserError("missing_config", f"{model_id} has no config.json", param="model")
        check_files(names, read_json(directory / "config.json"))
    except ApiQError as error:
        error.param = "base" if error.param == "model" else error.param
        raise
    return directory
