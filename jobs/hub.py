"""The model hub, as far as the service needs it: names, headers, files. Never any code.

`HF_ENDPOINT`, `HF_HUB_OFFLINE` and the token of this machine mean what they mean to
`huggingface_hub`.
"""

import errno
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # of the HTTP library that this release is built on
    NotASafetensorsRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.utils import tqdm as hub_tqdm  # type: ignore[attr-defined]

from apiq_core.errors import InfraError, UserError
from apiq_core.inspect import COMPANIONS, INDEX_FILE, WEIGHTS_FILE, TensorHeader, read_json

OnBytes = Callable[[int, int], None]  # (done, total) bytes of a download

# everything that is ever fetched of a model repository, beside the weights
PLAIN_FILES = ("config.json", *COMPANIONS, INDEX_FILE)
MAX_PLAIN_BYTES = 256 * 2**20  # of those that a preview needs
WEIGHTS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


@dataclass(frozen=True)
class HubModel:
    """A model repository at one commit."""

    model_id: str
    commit: str
    sizes_bytes: tuple[tuple[str, int], ...]  # of its files, by name
    token: str | None = field(default=None, repr=False)  # what it was found with

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.sizes_bytes]


@dataclass(frozen=True)
class HubRepository:
    """A dataset repository at one commit."""

    name: str
    commit: str
    sizes_bytes: tuple[tuple[str, int], ...]  # of its files, by name
    configs: list[dict[str, Any]] = field(default_factory=list)  # as its card has them
    token: str | None = field(default=None, repr=False)  # what it was found with


def endpoint() -> str:
    """The hub's address."""
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def find_model(
    model_id: str, revision: str | None, *, timeout_s: float, token: str | None = None
) -> HubModel:
    """Resolve a model and a revision to a commit. Without a `token` this machine's is used.

    Raises `UserError` (`model_not_found`, `model_gated`, `revision_not_found`) or
    `InfraError(hub_unreachable)`.
    """
    with _hub_errors(model_id, revision):
        info = _api(token).model_info(
            model_id, revision=revision, files_metadata=True, timeout=timeout_s
        )
        if info.sha is None:
            raise InfraError("hub_unreachable", f"{endpoint()} names no commit of {model_id}")
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    return HubModel(model_id, info.sha, tuple(sizes.items()), token)


@functools.lru_cache(maxsize=64)  # a commit never changes
def read_plain(model: HubModel, name: str) -> dict[str, Any]:
    """The content of one of PLAIN_FILES that is JSON."""
    with _hub_errors(model.model_id, model.commit):
        return read_json(Path(_download(model, name)))


@functools.lru_cache(maxsize=64)
def read_tensor_headers(model: HubModel) -> dict[str, TensorHeader]:
    """Dtype and shape of every tensor, without the weights."""
    with _hub_errors(model.model_id, model.commit):
        metadata = _api(model.token).get_safetensors_metadata(model.model_id, revision=model.commit)
    sizes = dict(model.sizes_bytes)
    tensors: dict[str, TensorHeader] = {}
    for name, file in metadata.files_metadata.items():
        needed = max((tensor.data_offsets[1] for tensor in file.tensors.values()), default=0)
        if needed > sizes.get(name, 0):
            raise UserError(
                "corrupt_weights",
                f"{name} is cut short: {sizes.get(name, 0)} bytes, its header promises {needed}",
                param="model",
            )
        for tensor_name, tensor in file.tensors.items():
            tensors[tensor_name] = TensorHeader(tensor.dtype, tuple(tensor.shape))
    return tensors


def needed_bytes(model: HubModel) -> int:
    """At most what `download_model` fetches: an index may leave some of the weights out."""
    return sum(
        size
        for name, size in model.sizes_bytes
        if name in PLAIN_FILES or WEIGHTS_NAME.fullmatch(name)
    )


def download_model(model: HubModel, directory: Path, on_bytes: OnBytes) -> None:
    """Fetch config, tokenizer and weights into `directory`; nothing else is ever fetched.

    What is there already, whole or in part, is not fetched again.
    """
    sizes = dict(model.sizes_bytes)
    plain = [name for name in PLAIN_FILES if name in sizes]
    with _hub_errors(model.model_id, model.commit):
        for name in plain:
            _download(model, name, directory)
        weights = _weight_names(directory)
        for name in weights:
            if not WEIGHTS_NAME.fullmatch(name) or name not in sizes:
                raise UserError(
                    "missing_weights",
                    f"{INDEX_FILE} names {name!r}, which is not there",
                    param="model",
                )
        done_bytes = sum(sizes[name] for name in plain)
        total_bytes = done_bytes + sum(sizes[name] for name in weights)
        on_bytes(done_bytes, total_bytes)
        for name in weights:
            _download(model, name, directory, _bar(done_bytes, total_bytes, on_bytes))
            done_bytes += sizes[name]
            on_bytes(done_bytes, total_bytes)


def download_plain_files(model: HubModel, names: Iterable[str], directory: Path) -> None:
    """Fetch those of `names` that there are. Raises `UserError(tokenizer_too_large)`."""
    sizes = {name: size for name, size in model.sizes_bytes if name in set(names)}
    if (size_bytes := sum(sizes.values())) > MAX_PLAIN_BYTES:
        raise UserError(
            "tokenizer_too_large",
            f"config and tokenizer of {model.model_id} have {size_bytes} bytes; legal: at most "
            f"{MAX_PLAIN_BYTES} bytes",
            param="model",
            value=size_bytes,
            legal={"at_most": MAX_PLAIN_BYTES},
        )
    with _hub_errors(model.model_id, model.commit):
        for name in sizes:
            _download(model, name, directory)


def find_dataset(
    repository: str, revision: str | None, *, timeout_s: float, token: str | None = None
) -> HubRepository:
    """Resolve a dataset repository and a revision to a commit. Raises as `find_model`."""
    with _hub_errors(repository, revision):
        info = _api(token).dataset_info(
            repository, revision=revision, files_metadata=True, timeout=timeout_s
        )
        if info.sha is None:
            raise InfraError("hub_unreachable", f"{endpoint()} names no commit of {repository}")
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        configs = getattr(info.card_data, "configs", None)
    configs = [x for x in configs if isinstance(x, dict)] if isinstance(configs, list) else []
    return HubRepository(repository, info.sha, tuple(sizes.items()), configs, token)


def download_dataset_file(repository: HubRepository, name: str, directory: Path) -> Path:
    """Fetch one file of a dataset repository."""
    with _hub_errors(repository.name, repository.commit):
        return Path(
            hf_hub_download(
                repository.name,
                name,
                repo_type="dataset",
                revision=repository.commit,
                local_dir=directory,
                endpoint=endpoint(),
                token=repository.token,
            )
        )


def dataset_exists(repository: str, *, timeout_s: float) -> bool:
    """Whether the hub answers and has this dataset."""
    try:
        with _hub_errors(repository, None):
            _api().dataset_info(repository, timeout=timeout_s)
    except (UserError, InfraError):
        return False
    return True


def _api(token: str | None = None) -> HfApi:
    return HfApi(endpoint=endpoint(), token=token)


def _download(
    model: HubModel, name: str, directory: Path | None = None, bar: type[hub_tqdm] | None = None
) -> str:
    path: str = hf_hub_download(
        model.model_id,
        name,
        revision=model.commit,
        local_dir=directory,
        endpoint=endpoint(),
        token=model.token,
        tqdm_class=bar,
    )
    return path


def _weight_names(directory: Path) -> list[str]:
    if (directory / INDEX_FILE).is_file():
        weight_map = read_json(directory / INDEX_FILE).get("weight_map")
        return sorted(set(map(str, dict(weight_map or {}).values())))
    return [WEIGHTS_FILE]


def _bar(before_bytes: int, total_bytes: int, on_bytes: OnBytes) -> type[hub_tqdm]:
    """A progress bar that draws nothing and reports instead."""

    class Reporter(hub_tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.done_bytes = int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs | {"disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.done_bytes += int(n or 0)
            on_bytes(before_bytes + self.done_bytes, total_bytes)

    return Reporter


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Say in our words what the hub said."""
    where = f"the hub at {endpoint()}"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            "model_gated",
            f"{repository} is gated on {where}; the hub token (hub_token, else this server's) has "
            "no access",
            param="model",
            value=repository,
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            "revision_not_found",
            f"{repository} has no revision {revision!r} on {where}",
            param="revision",
            value=revision,
            legal="a branch, a tag or a commit of that model",
        ) from None
    except RepositoryNotFoundError:
        raise _no_model(repository, where) from None
    except RemoteEntryNotFoundError as error:
        raise UserError(
            "missing_file", f"{repository} on {where} lacks a file: {error}", param="model"
        ) from None
    except (SafetensorsParsingError, NotASafetensorsRepoError, json.JSONDecodeError) as error:
        raise UserError(
            "corrupt_weights", f"{repository} on {where} is corrupt: {error}", param="model"
        ) from None
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 404:
            raise _no_model(repository, where) from None  # a mirror that does not say what of
        reason = (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")
        raise InfraError("hub_unreachable", f"{where} does not answer: {reason}") from None


def _no_model(repository: str, where: str) -> UserError:
    return UserError(
        "model_not_found", f"{where} has no {repository}", param="model", value=repository
    )
