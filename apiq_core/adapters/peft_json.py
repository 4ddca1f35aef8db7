"""PEFT's configs as files: the same bytes for the same config."""

from collections.abc import Iterable
from typing import Any

from peft import PeftConfig


def last_names(modules: Iterable[str]) -> list[str]:
    """`model.layers.0.self_attn.q_proj` -> `q_proj`, each once."""
    return sorted({name.rsplit(".", 1)[-1] for name in modules})


def plain(config: PeftConfig) -> dict[str, Any]:
    """Sets have no order; lists have."""
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
