"""What the core's command lines share: a config's fields as options, errors as exit codes."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from apiq_core.errors import ApiQError
from apiq_core.events import Event

Config = TypeVar("Config", bound=BaseModel)


def add_options(parser: argparse.ArgumentParser, model: type[BaseModel], prefix: str = "") -> None:
    """An option per field; a field of a field is `--calibration-samples`."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            add_options(parser, annotation, f"{prefix}{name}.")
            continue
        parser.add_argument(
            "--" + f"{prefix}{name}".replace(".", "-").replace("_", "-"),
            dest=f"{prefix}{name}",
            default=argparse.SUPPRESS,
            required=field.is_required(),
            nargs="+" if name == "formats" else None,
            help=(field.description or "").replace("%", "%%"),
        )


def parse(model: type[Config], options: dict[str, Any]) -> Config | None:
    """The config that such options spell; None if they are wrong, which is printed."""
    try:
        return model.model_validate(_nest(options))
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(map(str, problem["loc"]))
            print(f"error: {field}: {problem['msg']}, not {problem['input']!r}", file=sys.stderr)
        return None


def run(work: Callable[[], dict[str, Any] | None]) -> int:
    """The exit code of a command; what `work` returns, if anything, is printed as JSON."""
    try:
        result = work()
        if result is not None:
            print(json.dumps(result, indent=2))
    except ApiQError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return 2 if error.fault == "user" else 1
    return 0


def show(event: Event) -> None:
    sys.stderr.write(f"{event.type} {json.dumps(event.data)}\n")  # in one piece: others write too
    sys.stderr.flush()


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = _number(value)
    return nested


def _number(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
