"""A tiny random model that all share, and a text that is not longer than it needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apiq_core import calibration
from tests.tiny_models import make_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module", autouse=True)
def short_text() -> Iterator[None]:
    """To tokenize the whole of the built-in text takes half of a tiny model's run."""
    text = calibration.builtin_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "builtin_text", lambda: text[: len(text) // 8])
        yield
