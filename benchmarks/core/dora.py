"""DoRA in place of LoRA: fitted by ApiQ, and new on weights rounded to nearest, as QDoRA starts."""

from argparse import Namespace

from benchmarks.core.finetune import chosen, row, tasks
from benchmarks.core.setting import cells, setting
from benchmarks.core.trainees import APIQ, QLORA_STYLE, trained
from benchmarks.report import show, write

BITS = 2
COMPARED = (QLORA_STYLE, APIQ)
ADAPTERS = ("lora", "dora")


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    rows = []
    for task in tasks(options):
        for name in chosen(COMPARED, options.only):
            for adapter in ADAPTERS:
                figures = trained(store, given, task, name, BITS, adapter=adapter)
                if figures:
                    rows.append({"adapter": adapter} | row(task, name, BITS, figures))
    if rows:
        show(f"{given.model_dir.name}, {BITS} bits: LoRA and DoRA", rows)
        write("core-dora", {"rows": rows})
