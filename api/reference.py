"""docs/reference/requests.md: every field of the two requests, from the schemas that check them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.requests import FinetuneRequest, JobFields, QuantizeRequest

FILE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "requests.md"

HEAD = """\
# The fields of a request

Every field of the body of `POST /jobs`, as the code checks it; `python -m api.openapi` writes this
page. Where a default is left out, the last column tells what is taken: it may depend on the model,
the method or the data. `input` of the answer has every field as it was resolved. On the command
line `training.epochs` is `--training-epochs`.
"""
OF_ANY_JOB = tuple(JobFields.model_fields)
REQUIRED = "required"
COLUMNS = "| field | legal | default | what it is |\n|---|---|---|---|\n"

Schema = Mapping[str, Any]


def page() -> str:
    quantize, finetune = QuantizeRequest.model_json_schema(), FinetuneRequest.model_json_schema()
    parts = (
        ("A quantize job", [row for row in _rows(quantize) if row[0] not in OF_ANY_JOB]),
        ("A finetune job", [row for row in _rows(finetune) if row[0] not in OF_ANY_JOB]),
        ("Any job", [row for row in _rows(quantize) if row[0] in OF_ANY_JOB]),
    )
    return HEAD + "".join(f"\n## {title}\n\n{_table(rows)}" for title, rows in parts)


Row = tuple[str, str, str, str]  # field, legal, default, description


def _rows(schema: Schema) -> list[Row]:
    return sorted(_fields(schema, "", schema["$defs"]), key=lambda row: row[2] != REQUIRED)


def _fields(schema: Schema, prefix: str, definitions: Schema) -> Iterator[Row]:
    for name, field in schema["properties"].items():
        path = prefix + name
        if "$ref" in field:  # an object that is always there: its fields too
            nested = _resolved(field, definitions)
            yield path, "an object", "`{}`", nested["description"]
            yield from _fields(nested, f"{path}.", definitions)
            continue
        is_required = name in schema.get("required", ())
        default = REQUIRED if is_required else _default(field)
        yield path, _legal(field, definitions), default, field["description"]


def _default(field: Schema) -> str:
    if "default" not in field:  # made anew for each request
        return "`{}`"
    return "" if field["default"] is None else _quoted(field["default"])


def _quoted(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _legal(schema: Schema, definitions: Schema) -> str:
    if "anyOf" in schema:
        ways = [way for way in schema["anyOf"] if way.get("type") != "null"]
        return " or ".join(_legal(way, definitions) for way in ways)
    schema = _resolved(schema, definitions)
    if "const" in schema:
        return _quoted(schema["const"])
    if "enum" in schema:
        return ", ".join(map(_quoted, schema["enum"]))
    match schema["type"]:
        case "boolean":
            return "`true`, `false`"
        case "array":
            return f"a list of {schema['maxItems']} of {_legal(schema['items'], definitions)}"
        case "integer" | "number" as kind:
            return f"{kind}, {_bounds(schema)}"
        case "string":
            return "text"
        case _:
            return "an object"


BOUNDS = {
    "minimum": "at least {:.15g}",
    "exclusiveMinimum": "above {:.15g}",
    "maximum": "at most {:.15g}",
    "exclusiveMaximum": "below {:.15g}",
}


def _bounds(schema: Schema) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']:.15g} to {schema['maximum']:.15g}"
    return ", ".join(words.format(schema[name]) for name, words in BOUNDS.items() if name in schema)


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    found: Schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    return found


def _table(rows: list[Row]) -> str:
    return COLUMNS + "".join(
        f"| `{field}` | {legal} | {default} | {' '.join(text.split())} |\n"
        for field, legal, default, text in rows
    )
