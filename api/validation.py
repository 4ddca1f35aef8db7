"""From what pydantic says of a request to what a person can act on: field, value, what is legal."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from api.legal import legal_values, legal_words
from jobs.requests import FinetuneRequest, QuantizeRequest

MAX_QUOTED_CHARACTERS = 80
SECRET_FIELDS = frozenset({"hub_token"})  # never quoted, however wrong
REQUESTS: dict[str, type[BaseModel]] = {"quantize": QuantizeRequest, "finetune": FinetuneRequest}
JSON_TYPES = {str: "string", bool: "boolean", list: "array", dict: "object", type(None): "null"}


class FieldError(BaseModel):
    """One thing that is wrong with one field."""

    model_config = ConfigDict(frozen=True)

    pointer: str = Field(
        description="Where: a JSON pointer into the body (`#/calibration/samples`), or the name "
        "of a query parameter (`?limit`) or of a header (`Range:`), or a line of an upload and the "
        "field in it (`line 7, messages[0].role`).",
        examples=["#/bits"],
    )
    detail: str = Field(
        description="What is wrong, with the offending value and what is legal.",
        examples=["bits is 5; legal: 2, 3, 4 or 8"],
    )
    value: Any = Field(
        default=None, description="The offending value, if it is short.", examples=[5]
    )
    legal: Any = Field(
        default=None,
        description="What would have been accepted, if that can be told: a list, an object of "
        "`at_least`, `more_than`, `at_most`, `less_than`, or words.",
        examples=[[2, 3, 4, 8]],
    )


def describe(error: Mapping[str, Any], root: type[BaseModel] | None = None) -> FieldError:
    """One entry of `RequestValidationError.errors()` in our words.

    `root` is the model of the body. None: its `type` chooses one of REQUESTS, whose name the
    entry's place then begins with.
    """
    place, *full_path = error["loc"]
    if error["type"] == "union_tag_invalid":
        value = error["input"]["type"]
        shown = _shown(["type"], value)
        detail = f"type is {shown}; legal: {', '.join(REQUESTS)}"
        told = _short(value) if shown == quoted(value) else None
        return FieldError(pointer="#/type", detail=detail, value=told, legal=[*REQUESTS])
    if root is None:
        is_tagged = place == "body" and full_path and full_path[0] in REQUESTS
        root = REQUESTS[full_path.pop(0)] if is_tagged else QuantizeRequest
    if error["type"] == "recursion_depth_exceeded":  # whose place names every level
        full_path = full_path[:1]
    path = [part[:MAX_QUOTED_CHARACTERS] if isinstance(part, str) else part for part in full_path]
    if error["type"] == "width_missing":  # pydantic names the field that was read last
        path[-1] = "bits"
    if place == "body":
        pointer = "#" + "".join(f"/{_escape(str(part))}" for part in path)
    else:
        pointer = f"?{path[0]}" if place == "query" else f"{path[0] if path else place}:"
    name = ".".join(map(str, path)) or "the body"
    value = error.get("input")
    if place == "body":
        shown = _shown(path, value)
    else:
        shown, path = quoted(value), []
    detail = _detail(root, name, path, shown, error)
    if error["type"] in ("extra_forbidden", "missing", "width_missing"):
        return FieldError(pointer=pointer, detail=detail)
    return FieldError(
        pointer=pointer,
        detail=detail,
        value=_short(value) if shown == quoted(value) else None,
        legal=_behind_legal(str(error["msg"]))  # which may say more than the field's own bounds
        or legal_values(_field_at(root, path))
        or _behind_legal(detail),
    )


def _behind_legal(message: str) -> str | None:
    return message.partition("; legal: ")[2] or None


def pointer_to(param: str) -> str:
    """`calibration.samples` as a JSON pointer."""
    return "#/" + "/".join(map(_escape, param.split(".")))


def quoted(value: Any) -> str:
    """The offending value, short enough to read: as JSON, but for the quotes of a text."""
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a file of a form
        text = repr(value)
    if len(text) > MAX_QUOTED_CHARACTERS:
        length = len(value if isinstance(value, str) else text)
        return f"{text[:MAX_QUOTED_CHARACTERS]}... ({length} characters)"
    return text


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """` did you mean ...?`, or what there is to choose from."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"legal: {', '.join(known)}"


def model_in(annotation: Any) -> type[BaseModel] | None:
    """X of `X` and of `X | None`; None where there is no such X."""
    kinds = (annotation, *get_args(annotation))
    return next((x for x in kinds if isinstance(x, type) and issubclass(x, BaseModel)), None)


def _detail(
    root: type[BaseModel],
    name: str,
    path: Sequence[str | int],
    value: str,
    error: Mapping[str, Any],
) -> str:
    kind, message = str(error["type"]), str(error["msg"])
    field = _field_at(root, path)
    if kind == "extra_forbidden":
        parent = _model_at(root, path[:-1])
        known = sorted(parent.model_fields) if parent else []
        return f"{name} is not a field; {did_you_mean(str(path[-1]), known)}"
    if kind == "missing":
        wanted = f": {field.description}" if field and field.description else ""
        return f"{name} is missing{wanted}"
    if kind == "width_missing":
        return message
    if kind == "value_error":
        return f"{name} is {value}: {(error.get('ctx') or {}).get('error', message)}"
    legal = legal_words(error, field)
    return (
        f"{name} is {value}: {message}" if legal is None else f"{name} is {value}; legal: {legal}"
    )


def _shown(path: Sequence[str | int], value: Any) -> str:
    if SECRET_FIELDS.intersection(map(str, path)):
        return "[secret]"
    # a whole body may hold a secret too, as where JSON was encoded twice
    if path and not _holds_secret(value):
        return quoted(value)
    return f"of type {JSON_TYPES.get(type(value), 'number')}"


def _holds_secret(value: Any) -> bool:
    """Whether a secret was put into the wrong place, at any depth."""
    values = [value]
    for item in values:  # which grows: JSON may be deeper than calls can be
        if isinstance(item, Mapping):
            if not SECRET_FIELDS.isdisjoint(item):
                return True
            values += item.values()
        elif isinstance(item, list):
            values += item
    return False


def _short(value: Any) -> Any:
    """The value if it is JSON and short enough to be shown, else None."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return value if len(text) <= MAX_QUOTED_CHARACTERS else None


def _model_at(root: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = root
    for part in path:
        field = model.model_fields.get(str(part)) if model else None
        model = model_in(field.annotation) if field else None
    return model


def _field_at(root: type[BaseModel], path: Sequence[str | int]) -> FieldInfo | None:
    if not path:
        return None
    model = _model_at(root, path[:-1])
    return model.model_fields.get(str(path[-1])) if model else None


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
