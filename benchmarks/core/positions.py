"""Which adapters have to move: those of attention, of the MLPs, or all (the paper's Table 1)."""

from argparse import Namespace

from benchmarks.core.finetune import chosen, row, tasks
from benchmarks.core.setting import cells, setting
from benchmarks.core.trainees import APIQ, LOFTQ, QLORA_STYLE, trained
from benchmarks.report import show, write

BITS = 2
COMPARED = (QLORA_STYLE, LOFTQ, APIQ)
POSITIONS = ("attention", "mlp", "all")


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    rows = []
    for task in tasks(options):
        for name in chosen(COMPARED, options.only):
            for train in POSITIONS:
                figures = trained(store, given, task, name, BITS, train=train)
                if figures:
                    line = row(task, name, BITS, figures)
                    count = figures["trained_parameters"]
                    rows.append({"trained": train, "parameters": count} | line)
    if rows:
        show(f"{given.model_dir.name}, {BITS} bits: which adapters are trained", rows)
        write("core-positions", {"rows": rows})
