"""A split of a dataset of the hub: what is asked for, and which files of the repository it is."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from apiq_core.config import LEGAL_MODEL_ID, MODEL_ID, is_model_id
from apiq_core.errors import UserError
from jobs.datasets.files import ROWS, SUFFIXES, TEXT
from jobs.requests import HubToken, Revision

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$"
MAX_FILES = 200  # of a split; each is a request to the hub
SHOWN_NAMES = 5
PARQUET = ".parquet"
KINDS = {**SUFFIXES, PARQUET: ROWS}  # of what a file of the hub holds, by its suffix
# without a card the first that is there: JSONL beside parquet is a copy or an example, texts
# beside rows are notes
FORMATS = ([PARQUET], *([s for s, k in SUFFIXES.items() if k == kind] for kind in (ROWS, TEXT)))
# of files that say nothing else a split is told by such a word in their path
SPLITS = ("train", "test", "validation", "valid", "dev", "val", "eval")


def _check_repository(text: str) -> str:
    if not is_model_id(text):
        raise ValueError(f"not a dataset of the hub; legal: {LEGAL_MODEL_ID}")
    return text


class HubDataset(BaseModel):
    """A split of a dataset of the hub."""

    model_config = ConfigDict(extra="forbid", strict=True)

    hub: Annotated[str, AfterValidator(_check_repository)] = Field(
        description="The dataset: `name` or `org/name`.",
        examples=["org/name"],
        json_schema_extra={"pattern": f"^{MODEL_ID.pattern}$"},
    )
    config: str | None = Field(
        None,
        pattern=NAME,
        description="Which of its configurations, if it has several: as its card calls it, or the "
        "folder that the files are in.",
    )
    split: str = Field("train", pattern=NAME, description="Which of its splits.")
    revision: Revision | None = Field(
        None, description="Branch, tag or commit. Default: its main branch, as it is now."
    )
    hub_token: HubToken | None = Field(
        None,
        description="For a gated dataset: a token of the hub. Not kept. Default: the server's own, "
        "if it has one.",
    )


def choose_files(
    names: Sequence[str], configs: Sequence[Mapping[str, Any]], asked: HubDataset
) -> list[str]:
    """The files of the split by the card's `configs`, or by their paths; raises `UserError`."""
    names = sorted(name for name in names if ".." not in PurePosixPath(name).parts)
    found = _by_card(names, configs, asked) if configs else _by_path(names, asked)
    kinds = {KINDS.get(suffix_of(name)) for name in found}
    if None in kinds or len(kinds) != 1 or len(found) > MAX_FILES:
        raise UserError(
            "hub_files_unsupported",
            f"the split {asked.split} of {asked.hub} is {len(found)} files, {_some(found)}; legal: "
            f"up to {MAX_FILES}, all of them .parquet, .jsonl and .ndjson, or all of them .txt",
            param="hub",
            value=asked.hub,
            legal=list(KINDS),
        )
    return found


def _by_card(
    names: Sequence[str], configs: Sequence[Mapping[str, Any]], asked: HubDataset
) -> list[str]:
    by_name = {str(config.get("config_name")): config for config in configs}
    default = next((name for name, config in by_name.items() if config.get("default")), "default")
    chosen = asked.config or (default if len(by_name) > 1 else next(iter(by_name)))
    if chosen not in by_name:
        raise _no_split(asked, "config", asked.config, list(by_name))
    patterns = _patterns(by_name[chosen].get("data_files"))
    if asked.split not in patterns:
        raise _no_split(asked, "split", asked.split, list(patterns))
    wanted = patterns[asked.split]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)]


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """By split. A card has a pattern, a list of them, or a list of splits with theirs."""
    found: dict[str, list[str]] = {}
    for entry in data_files if isinstance(data_files, list) else [data_files]:
        is_split = isinstance(entry, Mapping)
        paths = entry.get("path") if is_split else entry
        split = str(entry.get("split", "train")) if is_split else "train"
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str):
                found.setdefault(split, []).append(path)
    return found


def _by_path(names: Sequence[str], asked: HubDataset) -> list[str]:
    by_format = [[name for name in names if suffix_of(name) in suffixes] for suffixes in FORMATS]
    data = next(filter(None, by_format), [])
    if asked.config is not None:
        inside = [name for name in data if asked.config in PurePosixPath(name).parts[:-1]]
        if not inside:
            raise _no_split(asked, "config", asked.config, _folders(data))
        data = inside
    if not data:
        others = [name for name in names if not name.startswith(".")]
        raise UserError(
            "hub_files_unsupported",
            f"{asked.hub} has no files to read, but {_some(others)}; legal: " + ", ".join(KINDS),
            param="hub",
            value=asked.hub,
            legal=list(KINDS),
        )
    found = [name for name in data if _has_word(name, asked.split)]
    if not found and asked.split == "train":
        found = data if not any(_has_word(name, split) for name in data for split in SPLITS) else []
    if not found:
        raise _no_split(asked, "split", asked.split, data)
    if len(_folders(found)) > 1:
        raise _no_split(asked, "config", asked.config, _folders(found))
    return found


def suffix_of(name: str) -> str:
    """Lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def _has_word(name: str, word: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", name) is not None


def _folders(names: Sequence[str]) -> list[str]:
    """The last part of their paths, which is what `config` may be."""
    return sorted({PurePosixPath(name).parent.name or "." for name in names})


def _no_split(asked: HubDataset, param: str, value: str | None, legal: Sequence[str]) -> UserError:
    return UserError(
        "hub_split_not_found",
        f"{param} is {value!r}; {asked.hub} on the hub has {_some(legal)}",
        param=param,
        value=value,
        legal=list(legal[:SHOWN_NAMES]),
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(repr(name[:100]) for name in names[:SHOWN_NAMES]) + more or "nothing"
