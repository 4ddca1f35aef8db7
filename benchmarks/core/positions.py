"""Which adapters have to move: those of attention, of the MLPs, or all (the paper's Table 1)."""

from argparse import Namespace

from benchmarks.core.finetune import varied
from benchmarks.core.trainees import APIQ, LOFTQ, QLORA_STYLE
from benchmarks.report import show, write

COMPARED = (QLORA_STYLE, LOFTQ, APIQ)
POSITIONS = ("attention", "mlp", "all")


def main(options: Namespace) -> None:
    rows = varied(options, COMPARED, "train", POSITIONS)
    if rows:
        show("which adapters are trained", rows)
        write("core-positions", {"rows": rows})
