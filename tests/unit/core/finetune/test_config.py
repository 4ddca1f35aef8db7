"""What a config of finetuning refuses because it would have no effect."""

import pytest
from pydantic import ValidationError

from apiq_core.finetune.config import FinetuneConfig


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"lr_quantizer": 0.5}, "lr_quantizer", "legal only with l4q"),
        ({"micro_batch_size": 3, "batch_size": 2}, "micro_batch_size", "legal: at most 2"),
    ],
)
def test_what_has_no_effect_is_refused(fields: dict[str, float], field: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FinetuneConfig.model_validate(fields)
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    assert says in error["msg"]


@pytest.mark.parametrize("fields", [{}, {"batch_size": 1}, {"method": "l4q", "lr_quantizer": 0.5}])
def test_what_is_stored_is_taken_again(fields: dict[str, float]) -> None:
    """A config that was written down has every default spelled out."""
    config = FinetuneConfig.model_validate(fields)
    assert FinetuneConfig.model_validate(config.model_dump()) == config
