"""How much each recipe depends on what, and how much, it was calibrated on."""

import dataclasses
from argparse import Namespace
from typing import Any

from benchmarks.core import texts
from benchmarks.core.chart import Axis, chart
from benchmarks.core.contenders import BEST, CLOSED_FORM, FAST, cell, taking_part
from benchmarks.core.setting import cells, setting
from benchmarks.report import RESULTS_DIR, show, write

BITS = 2
SAMPLES = (1, 2, 4, 8)  # times those of the other parts: 32, 64, 128, 256
COMPARED = ("gptq", CLOSED_FORM, FAST, BEST)


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    sources = list(given.scored)
    if options.gsm8k:
        sources.append(texts.gsm8k(options.gsm8k))
    names = taking_part(COMPARED, options.only)
    rows: list[dict[str, Any]] = []
    for samples in (times * given.samples for times in SAMPLES):
        for source in sources:
            asked_of = dataclasses.replace(given, calibrated=source, samples=samples)
            for name in names:
                asked = cell(name, asked_of, BITS)
                title = f"calibration: {name}, {samples} windows of {source.name}"
                figures = asked and store.figures(asked, title)
                if figures:
                    line = {"method": name, "calibrated on": source.name, "windows": samples}
                    scores = figures["scores"].items()
                    rows.append(line | {f"ppl {text}": s["perplexity"] for text, s in scores})
    if not rows:
        return
    rows.sort(key=lambda r: (names.index(r["method"]), r["calibrated on"], r["windows"]))
    show(f"{given.model_dir.name}, {BITS} bits: perplexity over calibration text", rows)
    write("core-calibration", {"rows": rows})
    for text in given.scored:
        column = f"ppl {text.name}"
        series = dict.fromkeys((r["method"], r["calibrated on"]) for r in rows)
        chart(
            RESULTS_DIR / f"core-calibration-{text.name}.svg",
            f"{given.model_dir.name}, {BITS} bits: perplexity on {text.name}",
            Axis("calibration windows of 256 tokens", log=True),
            Axis("perplexity", log=True),
            {
                f"{name}, {source}": [
                    (r["windows"], r[column])
                    for r in rows
                    if (r["method"], r["calibrated on"]) == (name, source)
                ]
                for name, source in series
            },
        )
