"""docs/reference/report.md names every field of report.json, and none that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from apiq_core.config import QuantizeConfig
from apiq_core.quantize import quantize
from apiq_core.reports.report import Report
from tests.tiny_models import make_tiny

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "report.md"
ROW = re.compile(r"^\| `([\w.\[\]]+)` \| (.+) \| (.*)\|$", re.MULTILINE)


@pytest.fixture(scope="module")
def documented() -> set[str]:
    names = [name for name, _, _ in ROW.findall(PAGE.read_text(encoding="utf-8"))]
    assert len(names) == len(set(names))
    return set(names)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of the schema."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner, marks in _models_in(field.annotation, ""):
            yield from _fields(inner, f"{prefix}{name}{marks}.")


def _models_in(annotation: Any, marks: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, marks
    origin_is_list = getattr(annotation, "__origin__", None) is list
    for argument in get_args(annotation):
        yield from _models_in(argument, marks + "[]" if origin_is_list else marks)


def _keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Paths of a dump: dictionaries have keys that the schema does not name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{prefix}{name}"
            yield from _keys(inner, f"{prefix}{name}.")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _keys(value[0], f"{prefix.removesuffix('.')}[].")


def test_every_field_of_the_schema(documented: set[str]) -> None:
    fields = set(_fields(Report))

    assert "blocks[].layers[].output_error" in fields  # the walk goes all the way down
    assert fields - documented == set()


def test_every_key_of_a_run_and_nothing_else(documented: set[str], tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "tiny", layers=1)
    keys: set[str] = set()
    for width in ({"bits": 2}, {"bits_per_weight": 4.0}):
        config = QuantizeConfig.model_validate(
            {
                **width,
                "calibration": {"samples": 2, "held_out": 1, "length": 16},
                "evaluation": {"samples": 1, "length": 16},
                "recipe": "best",
                "training": {"epochs": 1, "polish_epochs": 1},
            }
        )
        report = quantize(model, tmp_path / f"out{len(keys)}", config)
        keys |= set(_keys(report.model_dump(mode="json")))

    assert documented == keys
