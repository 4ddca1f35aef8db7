"""Ids in paths: what cannot be one is not found, and never gets to the database."""

import re
from typing import Annotated

from fastapi import Depends, Path

from jobs.errors import DatasetNotFound, JobNotFound

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_JOB = re.compile(f"job_{_UUID}")
_DATASET = re.compile(f"ds_{_UUID}")

MAX_QUOTED_CHARACTERS = 80


async def _job_id(job_id: Annotated[str, Path(description="`job_` and a UUID.")]) -> str:
    if _JOB.fullmatch(job_id) is None:
        raise JobNotFound(f"there is no job {job_id[:MAX_QUOTED_CHARACTERS]!r}")
    return job_id


async def _dataset_id(dataset_id: Annotated[str, Path(description="`ds_` and a UUID.")]) -> str:
    if _DATASET.fullmatch(dataset_id) is None:
        raise DatasetNotFound(f"there is no dataset {dataset_id[:MAX_QUOTED_CHARACTERS]!r}")
    return dataset_id


JobId = Annotated[str, Depends(_job_id)]
DatasetId = Annotated[str, Depends(_dataset_id)]
