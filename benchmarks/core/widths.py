"""What is left of the lead of a start where weights keep more bits."""

from argparse import Namespace

from benchmarks.core.finetune import varied
from benchmarks.core.trainees import APIQ, QLORA_STYLE
from benchmarks.report import show, write

COMPARED = (QLORA_STYLE, APIQ)


def main(options: Namespace) -> None:
    rows = varied(options, COMPARED, "bits", options.bits)
    if rows:
        show("2, 3 and 4 bits", rows)
        write("core-widths", {"rows": rows})
