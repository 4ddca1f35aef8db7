"""What a field takes, as its model and pydantic say it: in words, and as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from apiq_core.config import SOURCE_PATTERN
from jobs.datasets.hub_splits import NAME
from jobs.requests import DATASET_ID

IDEMPOTENCY_KEY = r"^[\x21-\x7e]+$"
BOUNDS = {"ge": "at_least", "gt": "more_than", "le": "at_most", "lt": "less_than"}
# what pydantic says of a bound, and what is said here
WORDS = (("less than or equal to", "at most"), ("greater than or equal to", "at least"))
PATTERNS = {
    f"^{DATASET_ID.pattern}$": "`ds_...`, the id of an uploaded dataset; `POST /datasets` with "
    '`{"hub": "org/name"}` fetches one of the hub and answers with its id',
    SOURCE_PATTERN: "`wikitext2`, `builtin`, or `dataset:ds_...` of an uploaded text",
    IDEMPOTENCY_KEY: "1 to 255 ASCII characters that are printed, no space",
    NAME: "1 to 100 of ASCII letters, digits, `_`, `.`, `+` and `-`, starting with one of the "
    "first three",
}
TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "model_attributes_type": "a JSON object",
    "model_type": "a JSON object",
    "dict_type": "a JSON object",
    "recursion_depth_exceeded": "no deep nesting",
}


def legal_values(field: FieldInfo | None) -> Any:
    """`[2, 3, 4, 8]`, or `{"at_least": 2, "at_most": 8}`; None where neither says it."""
    if field is None:
        return None
    bounds: dict[str, float] = {}
    for part in (*_parts(field.annotation), field):
        if get_origin(part) is Literal:
            return list(get_args(part))
        for limit in part.metadata if isinstance(part, FieldInfo) else ():
            bounds |= {BOUNDS[x]: getattr(limit, x) for x in BOUNDS if hasattr(limit, x)}
    return bounds or None


def legal_words(error: Mapping[str, Any], field: FieldInfo | None) -> str | None:
    """Of an entry of `ValidationError.errors()`; None where its message says something else."""
    kind, context = str(error["type"]), error.get("ctx") or {}
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], str(context["pattern"]))
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        limit, count = ("least", "min_length") if kind.endswith("short") else ("most", "max_length")
        what = "character" if kind.startswith("string") else "item"
        return f"at {limit} {context[count]} {what}{'' if context[count] == 1 else 's'}"
    value, values = error.get("input"), legal_values(field)
    is_nan = isinstance(value, float) and value != value  # of two bounds pydantic names the last
    bounds = values if isinstance(values, dict) else {}
    if kind in TYPES or (is_nan and bounds):
        words = [f"{name.replace('_', ' ')} {limit}" for name, limit in bounds.items()]
        return ", ".join([TYPES.get(kind, "a number"), *words[:1]]) + "".join(
            f" and {word}" for word in words[1:]
        )
    message = str(error["msg"])
    if not message.startswith("Input should be "):
        return None
    for long, short in WORDS:
        message = message.replace(long, short)
    return message.removeprefix("Input should be ")


def _parts(annotation: Any) -> Iterator[Any]:
    """Of `X | None` and `Annotated[X, ...]`; what is in a list is not of the field itself."""
    yield annotation
    if get_origin(annotation) not in (Literal, list, dict):
        for part in get_args(annotation):
            yield from _parts(part)
