"""A config that takes seconds."""

from typing import Any

from apiq_core.config import QuantizeConfig

SMALL = {
    "calibration": {"samples": 8, "length": 32, "held_out": 2},
    "evaluation": {"samples": 4, "length": 64},
}


def small_config(**fields: Any) -> QuantizeConfig:
    return QuantizeConfig.model_validate({"bits": 2} | SMALL | fields)
