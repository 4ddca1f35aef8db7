"""How good each method is at how many bits, on text that nobody calibrated on."""

from argparse import Namespace
from typing import Any

from benchmarks.core.cells import Figures
from benchmarks.core.chart import Axis, chart
from benchmarks.core.contenders import ALL, CLOSED_FORM, MAIN, cell, taking_part
from benchmarks.core.setting import cells, setting
from benchmarks.report import RESULTS_DIR, show, write

FULL_PRECISION = "full precision"
SHOWN = 10  # what is worse than so many times full precision would press all else together
NO_ADAPTER = f"{CLOSED_FORM} r0"  # at 3 bits: the rival by size of 2 bits with an adapter


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    rows: list[dict[str, Any]] = []
    for bits in options.bits:
        names = taking_part(ALL if bits == 2 else MAIN, options.only)
        runs: list[tuple[str, str, int | None]] = [(name, name, None) for name in names]
        if bits == 3 and any(name == CLOSED_FORM for name, _, _ in runs):
            runs.append((NO_ADAPTER, CLOSED_FORM, 0))
        for label, name, rank in runs:
            asked = cell(name, given, bits, rank)
            figures = asked and store.figures(asked, f"quality: {label} at {bits} bits")
            if asked and figures:
                rows = rows or [full_precision(figures)]
                rows.append(row(label, bits, asked.config["quantize"]["rank"], figures))
    if not rows:
        return
    show(f"{given.model_dir.name}, {given.samples} windows calibrated on", rows)
    write("core-quality", {"rows": rows})
    exact, *others = rows
    for text in given.scored:
        column = f"ppl {text.name}"
        least = exact[column]
        shown = [r for r in others if r[column] <= SHOWN * least]
        chart(
            RESULTS_DIR / f"core-quality-{text.name}.svg",
            f"{given.model_dir.name} on {text.name}; in full precision {least:.2f}",
            Axis("bits per quantized weight, adapter included"),
            Axis(f"perplexity (above {SHOWN} times full precision: not shown)", log=True),
            {
                name: [(r["bits/w"], r[column]) for r in shown if r["method"] == name]
                for name in dict.fromkeys(r["method"] for r in shown)
            },
        )


def full_precision(figures: Figures) -> dict[str, Any]:
    """The row that all others are compared with; every cell has measured it beside its own."""
    scores = {
        text: {"perplexity": score["full_precision_perplexity"], "kl": 0.0}
        for text, score in figures["scores"].items()
    }
    bits = {"bits_per_weight": {"total": 16.0}, "file_bits_per_parameter": 16.0, "scores": scores}
    return row(FULL_PRECISION, 16, None, bits)


def row(label: str, bits: int, rank: int | None, figures: Figures) -> dict[str, Any]:
    """bits/w: of a quantized weight, adapter included; file: of a parameter, all of the files."""
    scores = figures["scores"]
    return {
        "bits": bits,
        "method": label,
        "rank": rank,
        "bits/w": figures["bits_per_weight"]["total"],
        "file": figures["file_bits_per_parameter"],
        **{f"ppl {text}": score["perplexity"] for text, score in scores.items()},
        **{f"kl {text}": score["kl"] for text, score in scores.items()},
    }
