"""Quantize without any service: `python -m apiq_core MODEL_DIR OUT_DIR --bits 2`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from apiq_core.config import QuantizeConfig
from apiq_core.errors import ApiQError
from apiq_core.events import Event


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m apiq_core", description="Quantize a checkpoint folder with ApiQ."
    )
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:n]")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="SOURCE=FILE",
        help="the file of a text source, such as wikitext2=train.txt",
    )
    _add_options(parser, QuantizeConfig)
    arguments = vars(parser.parse_args(argv))
    fixed = {name: arguments.pop(name) for name in ("model_dir", "out_dir", "device", "text")}
    try:
        config = QuantizeConfig.model_validate(_nest(arguments))
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(map(str, problem["loc"]))
            print(f"error: {field}: {problem['msg']}, not {problem['input']!r}", file=sys.stderr)
        return 2

    from apiq_core.quantize import quantize  # torch only once the options are right

    try:
        report = quantize(
            fixed["model_dir"],
            fixed["out_dir"],
            config,
            on_event=_show,
            texts={k: Path(v) for k, _, v in (text.partition("=") for text in fixed["text"])},
            device=fixed["device"],
        )
    except ApiQError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return 2 if error.fault == "user" else 1
    print(json.dumps(report.headline(), indent=2))
    return 0


def _add_options(parser: argparse.ArgumentParser, model: type[BaseModel], prefix: str = "") -> None:
    """An option per field; pydantic checks the values, so that bounds stand in one place."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            _add_options(parser, annotation, f"{prefix}{name}.")
            continue
        parser.add_argument(
            "--" + f"{prefix}{name}".replace(".", "-").replace("_", "-"),
            dest=f"{prefix}{name}",
            default=argparse.SUPPRESS,
            required=field.is_required(),
            nargs="+" if name == "formats" else None,
            help=(field.description or "").replace("%", "%%"),
        )


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


def _show(event: Event) -> None:
    print(event.type, json.dumps(event.data), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
