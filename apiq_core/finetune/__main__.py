"""Finetune without any service: `python -m apiq_core.finetune BASE_DIR DATASET OUT_DIR`.

On several GPUs: `accelerate launch --multi_gpu --num_processes 2 -m apiq_core.finetune ...`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from apiq_core.events import ShouldStop
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.options import add_options, parse, run, show

FIXED = ("base_dir", "dataset", "out_dir", "device", "bits", "group_size")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m apiq_core.finetune",
        description="Train what was quantized, or a full-precision checkpoint.",
    )
    parser.add_argument(
        "base_dir",
        type=Path,
        help="what `python -m apiq_core` left, with model/ and maybe adapter/; or a checkpoint",
    )
    parser.add_argument("dataset", type=Path, help="rows as .jsonl, or a text as .txt")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:n]")
    parser.add_argument("--bits", type=int, help="to what l4q quantizes a checkpoint: 2, 3, 4 or 8")
    parser.add_argument(
        "--group-size", type=int, help="of l4q's checkpoint; the first of 64, 32, -1 that divides"
    )
    add_options(parser, FinetuneConfig)
    arguments = vars(parser.parse_args(argv))
    fixed = {name: arguments.pop(name) for name in FIXED}
    config = parse(FinetuneConfig, arguments)
    if config is None:
        return 2
    base_dir: Path = fixed["base_dir"]
    if not fixed["dataset"].is_file():
        parser.error(f"there is no file {fixed['dataset']}")
    if not base_dir.is_dir():
        parser.error(f"there is no folder {base_dir}")
    is_artifact = (base_dir / "model").is_dir()
    adapter_dir = base_dir / "adapter"

    from apiq_core.finetune import processes  # torch only once the options are right
    from apiq_core.finetune.finetune import finetune

    def work(should_stop: ShouldStop) -> dict[str, Any] | None:
        with processes.joined(fixed["device"]) as device:
            report = finetune(
                base_dir / "model" if is_artifact else base_dir,
                adapter_dir if is_artifact and adapter_dir.is_dir() else None,
                fixed["dataset"],
                fixed["out_dir"],
                config,
                on_event=show,
                should_stop=should_stop,
                device=device,
                base_name=base_dir.name,
                is_job=is_artifact,
                bits=fixed["bits"],
                group_size=fixed["group_size"],
            )
            return report.headline() if processes.is_main() else None

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
