"""Quantize without any service: `python -m apiq_core MODEL_DIR OUT_DIR --bits 2`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from apiq_core.config import QuantizeConfig
from apiq_core.events import ShouldStop
from apiq_core.options import add_options, parse, run, show


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m apiq_core", description="Quantize a checkpoint folder with ApiQ."
    )
    parser.add_argument("model_dir", type=Path, help="a checkpoint: config.json, safetensors")
    parser.add_argument("out_dir", type=Path, help="where the artifacts go; a stopped run goes on")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:n]")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="SOURCE=FILE",
        help="the file of a source that --calibration-source or --evaluation-source names, such as "
        "wikitext2=train.txt; nothing is fetched here, and builtin, the default, needs none",
    )
    add_options(parser, QuantizeConfig)
    arguments = vars(parser.parse_args(argv))
    fixed = {name: arguments.pop(name) for name in ("model_dir", "out_dir", "device", "text")}
    config = parse(QuantizeConfig, arguments)
    if config is None:
        return 2

    from apiq_core.quantize import quantize  # torch only once the options are right

    def work(should_stop: ShouldStop) -> dict[str, Any]:
        report = quantize(
            fixed["model_dir"],
            fixed["out_dir"],
            config,
            on_event=show,
            should_stop=should_stop,
            texts={k: Path(v) for k, _, v in (text.partition("=") for text in fixed["text"])},
            device=fixed["device"],
        )
        return report.headline()

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
