"""What the options of a run come to."""

from argparse import Namespace

from benchmarks.core import models, texts
from benchmarks.core.cells import Cells
from benchmarks.core.contenders import Setting


def setting(options: Namespace, *, blocks: int | None = None) -> Setting:
    """Calibrated on one half of WikiText-2; scored on the other, and on what Python says of itself.

    `blocks` is what the part takes unless the options say otherwise; None for all.
    """
    model_dir = options.model or models.the_model()
    count = options.blocks or blocks
    wikitext = texts.wikitext(options.wikitext)
    return Setting(
        model_dir=models.first_blocks(model_dir, count) if count else model_dir,
        calibrated=wikitext,
        scored=(wikitext, texts.builtin()),
        samples=options.samples,
    )


def cells(options: Namespace) -> Cells:
    return Cells(minutes=options.minutes)
