"""HTML that escapes by default: only what `tag` built goes into a page as it is."""

from html import escape
from typing import Any

VOID = ("meta", "br")


class Html(str):
    """Markup that is already escaped."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element; children and attribute values are escaped unless they are `Html`.

    In attribute names a trailing underscore is dropped and others become dashes (`class_`,
    `stroke_width`); an attribute that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Any) -> Html:
    """Children side by side."""
    return Html("".join(c if isinstance(c, Html) else escape(str(c)) for c in children))
