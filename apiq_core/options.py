"""What the core's command lines share: a config's fields as options, errors as exit codes."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from apiq_core.errors import ApiQError, Stopped
from apiq_core.events import Event, ShouldStop

Config = TypeVar("Config", bound=BaseModel)
EXIT_STOPPED = 75  # as the worker's child has it


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
            print(f"error: {_spelled(problem)}", file=sys.stderr)
        return None


def _spelled(problem: Mapping[str, Any]) -> str:
    """Of an entry of `ValidationError.errors()`."""
    if problem["type"] == "width_missing":  # its field is the one that was read last
        return str(problem["msg"])
    field, message = ".".join(map(str, problem["loc"])), str(problem["msg"])
    message = message.removeprefix("Value error, ").replace("Input should be ", "legal: ")
    return f"{field} is {problem['input']!r}; {message}"


def run(work: Callable[[ShouldStop], dict[str, Any] | None]) -> int:
    """The exit code of a command; what `work` returns, if anything, is printed as JSON.

    SIGTERM and SIGINT ask `work` to stop at a safe point; a second one ends it at once.
    """
    try:
        with _stopping() as should_stop:
            result = work(should_stop)
        if result is not None:
            print(json.dumps(result, indent=2))
    except ApiQError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return 2 if error.fault == "user" else 1
    except Stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED
    return 0


def show(event: Event) -> None:
    sys.stderr.write(f"{event.type} {json.dumps(event.data)}\n")  # in one piece: others write too
    sys.stderr.flush()


@contextmanager
def _stopping() -> Iterator[ShouldStop]:
    """Whether a signal asked to stop."""
    asked = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        asked.set()
        put_back()

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        put_back()


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
