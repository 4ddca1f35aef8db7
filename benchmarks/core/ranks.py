"""What a larger adapter is worth once it is trained."""

from argparse import Namespace

from benchmarks.core.chart import Axis, chart
from benchmarks.core.finetune import chosen, row, tasks
from benchmarks.core.setting import cells, setting
from benchmarks.core.trainees import APIQ, LOFTQ, QLORA_STYLE, trained
from benchmarks.report import RESULTS_DIR, show, write

BITS = 2
COMPARED = (QLORA_STYLE, LOFTQ, APIQ)
RANKS = (4, 8, 16, 32, 64)


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    names = chosen(COMPARED, options.only)
    for task in tasks(options):
        rows = []
        for name in names:
            for rank in RANKS:
                figures = trained(store, given, task, name, BITS, rank=rank)
                if figures:
                    rows.append({"rank": rank} | row(task, name, BITS, figures))
        if not rows:
            continue
        show(f"{given.model_dir.name} on {task.name}, {BITS} bits: rank", rows)
        write(f"core-ranks-{task.name}", {"rows": rows})
        chart(
            RESULTS_DIR / f"core-ranks-{task.name}.svg",
            f"{given.model_dir.name} on {task.name}, {BITS} bits, trained",
            Axis("rank", log=True),
            Axis("loss on held-out rows, nats a token", log=True),
            {n: [(r["rank"], r["loss after"]) for r in rows if r["start"] == n] for n in names},
        )
