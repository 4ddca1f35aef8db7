"""What a larger adapter is worth once it is trained."""

from argparse import Namespace

from benchmarks.core.chart import Axis, chart
from benchmarks.core.finetune import varied
from benchmarks.core.trainees import APIQ, LOFTQ, QLORA_STYLE
from benchmarks.report import RESULTS_DIR, show, write

COMPARED = (QLORA_STYLE, LOFTQ, APIQ)
RANKS = (4, 8, 64)


def main(options: Namespace) -> None:
    rows = varied(options, COMPARED, "rank", RANKS)
    if not rows:
        return
    show("rank of the adapter", rows)
    write("core-ranks", {"rows": rows})
    for task in dict.fromkeys(row["rows"] for row in rows):
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["rows"] == task:
                curves.setdefault(row["start"], []).append((row["rank"], row["loss after"]))
        chart(
            RESULTS_DIR / f"core-ranks-{task}.svg",
            f"trained on {task}",
            Axis("rank", log=True),
            Axis("loss on held-out rows, nats a token", log=True),
            curves,
        )
