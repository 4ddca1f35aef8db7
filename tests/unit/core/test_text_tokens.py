"""A text is tokenized piece by piece."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from apiq_core import text_tokens as module
from apiq_core.text_tokens import text_tokens
from apiq_core.tokenizer import load_tokenizer
from tests.tiny_models import make_tiny

LINES = "The statement of a module is a statement.\n" * 9


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        (LINES[:90], [LINES[:84], LINES[84:90]]),
        (LINES, [LINES[:84], LINES[84:168], LINES[168:294], LINES[294:]]),  # not in a line
        (
            "module" + " module" * 29,
            ["module" + " module" * 13, " module" * 14, " module", " module"],
        ),
        ("m" * 250, ["m" * 100, "m" * 100, "m" * 50]),
        (" " + "m" * 150, [" " + "m" * 99, "m" * 51]),
    ],
)
def test_pieces_end_where_a_token_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, pieces: list[str]
) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 100)
    tokenizer: Any = load_tokenizer(make_tiny(tmp_path / "tiny"))
    seen: list[str] = []
    asked: list[int] = []

    def tokenize(piece: str, **options: Any) -> Any:
        seen.append(piece)
        return tokenizer(piece, **options)

    ids = text_tokens(StringIO(text), tokenize, lambda: asked.append(len(seen)))  # type: ignore[arg-type]
    assert seen == pieces
    assert asked == [*range(len(pieces))]
    assert ids.itemsize == 4
    if "mm" not in text:
        assert list(ids) == tokenizer(text, add_special_tokens=False)["input_ids"]
