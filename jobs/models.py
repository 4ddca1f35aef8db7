"""Where a model is: the models directory first, then the hub.

`locate` when a job is accepted, `inspect` before it is, `fetched` when it runs.
"""

import difflib
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from apiq_core.config import LEGAL_MODEL_ID, is_model_id
from apiq_core.errors import ApiQError, InfraError, UserError
from apiq_core.inspect import (
    CHAT_TEMPLATE,
    TOKENIZER_CONFIG,
    ModelFacts,
    check_files,
    facts_from,
    inspect_model,
    read_json,
)
from jobs import downloads, hub
from jobs.fingerprint import fingerprint
from jobs.requests import HOW_TO_IMPORT
from jobs.settings import Settings

LOCAL = "local:"
MAX_SHOWN = 5  # ids of a message
NOT_ON_HUB = ("hub_unreachable", "model_not_found", "revision_not_found")


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
    models directory only, any other of the hub only. Raises `UserError`, or
    `InfraError(hub_unreachable)` where only the hub could tell, saying where it looked.
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
        found = LOCAL + fingerprint(directory)
        if revision not in (None, found):
            raise UserError(
                "model_changed",
                f"{model_id} in the models directory is now {found}, not {revision}",
                param="revision",
                value=revision,
                legal=found,
            )
        return Located(model_id, found, directory)
    if revision is not None and wants_local:
        raise _not_found(model_id, settings, f"and revision {revision} can be nowhere else")
    try:
        token = None if hub_token is None else hub_token.get_secret_value()
        on_hub = hub.find_model(model_id, revision, timeout_s=settings.hub_timeout_s, token=token)
    except ApiQError as error:
        if directory is not None and error.code in NOT_ON_HUB:  # so a revision was asked for
            raise _without_revision(error, model_id, revision, directory) from None
        if error.code == "model_not_found":
            elsewhere = f"nor has the hub at {hub.endpoint()} any"
            raise _not_found(model_id, settings, elsewhere) from None
        if error.code != "hub_unreachable" or revision is not None:
            raise
        raise InfraError(
            error.code,
            f"{_not_here(model_id, settings)}; {error.message}. {HOW_TO_IMPORT}",
            param="model",
            value=model_id,
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
    config = hub.read_plain(located.on_hub, "config.json")
    check_files(names, config)
    return facts_from(config, hub.read_tensor_headers(located.on_hub))


@functools.lru_cache(maxsize=64)  # of another revision it is asked anew
def has_chat_template(located: Located) -> bool:
    """Whether its tokenizer can write chats; raises `UserError(corrupt_config)`."""
    if located.directory is not None:
        names = [path.name for path in located.directory.iterdir()]
        read = partial(read_json, located.directory / TOKENIZER_CONFIG)
    else:
        assert located.on_hub is not None
        names = located.on_hub.names
        read = partial(hub.read_plain, located.on_hub, TOKENIZER_CONFIG)
    if CHAT_TEMPLATE in names:
        return True
    return TOKENIZER_CONFIG in names and read().get("chat_template") is not None


@functools.lru_cache(maxsize=64)
def _inspect_local(directory: Path, revision: str) -> ModelFacts:
    """Read once: another header is another revision."""
    return inspect_model(directory)


@contextmanager
def fetched(located: Located, settings: Settings, on_bytes: hub.OnBytes) -> Iterator[Path]:
    """The checkpoint's directory, while the block lasts: where it is if local, else downloaded."""
    if located.directory is not None:
        yield located.directory
        return
    assert located.on_hub is not None
    with downloads.downloaded(located.on_hub, settings, on_bytes) as directory:
        yield directory


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


def _without_revision(
    error: ApiQError, model_id: str, revision: str | None, directory: Path
) -> ApiQError:
    """What the hub does not have, or cannot say, is in the models directory."""
    here = LOCAL + fingerprint(directory)
    return type(error)(
        error.code,
        f"{error.message}. revision is {revision!r}, so the hub was asked; {model_id} is in the "
        f"models directory, at {here}: leave revision out",
        param="revision",
        value=revision,
        legal=here,
    )


def _not_found(model_id: str, settings: Settings, elsewhere: str) -> UserError:
    return UserError(
        "model_not_found",
        f"{_not_here(model_id, settings)}; {elsewhere}. {HOW_TO_IMPORT}",
        param="model",
        value=model_id,
    )


def _not_here(model_id: str, settings: Settings) -> str:
    """Where it was looked for, and what is there instead."""
    ids = sorted(
        config.parent.relative_to(settings.models_dir).as_posix()
        for pattern in ("[!.]*/config.json", "[!.]*/*/config.json")
        for config in settings.models_dir.glob(pattern)
    )
    close = difflib.get_close_matches(model_id, ids, n=MAX_SHOWN, cutoff=0.0)
    more = f" and {len(ids) - len(close)} more" if len(ids) > len(close) else ""
    there = f"there are {', '.join(close)}{more}" if ids else "there is none"
    return f"there is no model {settings.models_dir / model_id} (APIQ_MODELS_DIR; {there})"
