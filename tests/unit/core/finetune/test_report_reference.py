"""docs/reference/finetune-report.md names every field of the report."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from apiq_core.finetune.checkpoint import Point
from apiq_core.finetune.data.training_data import FileCounts
from apiq_core.finetune.reports.report import FinetuneReport, Scores

PAGE = Path(__file__).resolve().parents[4] / "docs" / "reference" / "finetune-report.md"


@pytest.mark.parametrize("model", [FinetuneReport, Scores, Point, FileCounts])
def test_every_field_is_named(model: type[BaseModel]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in model.model_fields if f"`{name}`" not in text] == []
