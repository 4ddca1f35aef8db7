"""Ids in paths: what cannot be one is not found, and never gets to the database."""

import re
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator

from jobs.errors import DatasetNotFound, JobNotFound

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_JOB = re.compile(f"job_{_UUID}")
_DATASET = re.compile(f"ds_{_UUID}")

MAX_QUOTED_CHARACTERS = 80


def _job_id(text: str) -> str:
    if _JOB.fullmatch(text) is None:
        raise JobNotFound(f"there is no job {text[:MAX_QUOTED_CHARACTERS]!r}")
    return text


def _dataset_id(text: str) -> str:
    if _DATASET.fullmatch(text) is None:
        raise DatasetNotFound(f"there is no dataset {text[:MAX_QUOTED_CHARACTERS]!r}")
    return text


# no ValueError in there: pydantic lets the error through, to become the 404 that it is
JobId = Annotated[str, Path(description="`job_` and a UUID."), AfterValidator(_job_id)]
DatasetId = Annotated[str, Path(description="`ds_` and a UUID."), AfterValidator(_dataset_id)]
