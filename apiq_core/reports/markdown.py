"""Pieces of Markdown."""

import re
from html import escape
from typing import Any


def code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def plain(text: Any) -> str:
    """On one line, and without meaning to Markdown or HTML."""
    line = escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)
