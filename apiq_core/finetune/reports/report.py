"""What a finetune job measured."""

import platform
from typing import Any

import peft
import torch
import transformers
from pydantic import BaseModel, Field

from apiq_core import __version__
from apiq_core.finetune.checkpoint import Point
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.data.training_data import FileCounts


def used_versions() -> dict[str, str]:
    """Of what computes, by package."""
    return {
        "apiq_core": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
    }


class Scores(BaseModel):
    """On the held-out rows that are scored, before the first step and with what is published."""

    before: float
    after: float


class FinetuneReport(BaseModel):
    """report.json of a finetune job."""

    base: str  # what was trained on
    model: str  # that it is of
    bits: float | None  # of a code, mean over the weights that are packed; null where none are
    group_size: int | None
    config: FinetuneConfig
    rows: dict[str, int]  # by `train` and `validation`, those of the held-out ones that are scored
    tokens: dict[str, int]  # that carry loss, as above
    files: dict[str, FileCounts]  # by `dataset` and, if it is a file, `validation`
    overlap: int  # held-out rows, scored or not, that were trained on too
    trained_parameters: int
    validation_loss: Scores  # nats a token
    perplexity: Scores
    exact_match: float | None  # of final numbers; null where nothing is asked that has one
    best_step: int  # that is published
    points: list[Point]  # the curves
    seconds: dict[str, float]  # by phase
    peak_memory_bytes: dict[str, int]
    projected_memory_bytes: dict[str, int]  # of larger models, trained the same way
    device: str
    matmul_dtype: str  # of the products inside the blocks while training
    versions: dict[str, str] = Field(default_factory=used_versions)

    def headline(self) -> dict[str, Any]:
        """The figures that a job shows of itself."""
        return {
            "validation_loss": self.validation_loss.model_dump(),
            "perplexity": self.perplexity.model_dump(),
            "exact_match": self.exact_match,
            "seconds": sum(self.seconds.values()),
            "peak_memory_bytes": max(self.peak_memory_bytes.values()),
        }
