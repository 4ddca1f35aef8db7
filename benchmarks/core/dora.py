"""DoRA in place of LoRA: fitted by ApiQ, and new on weights rounded to nearest, as QDoRA starts."""

from argparse import Namespace

from benchmarks.core.finetune import varied
from benchmarks.core.trainees import APIQ, QLORA_STYLE
from benchmarks.report import show, write

COMPARED = (QLORA_STYLE, APIQ)
ADAPTERS = ("lora", "dora")


def main(options: Namespace) -> None:
    rows = varied(options, COMPARED, "adapter", ADAPTERS)
    if rows:
        show("LoRA and DoRA", rows)
        write("core-dora", {"rows": rows})
