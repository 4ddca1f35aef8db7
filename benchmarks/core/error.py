"""Where the error is: the paper's figures 3 to 6 for this model.

Activation and weight error of every layer, how the values of Q, A and B are spread, and perplexity
over the rank of the adapter.
"""

from argparse import Namespace
from typing import Any

from benchmarks.core.cells import Cells, Figures
from benchmarks.core.chart import Axis, Points, chart
from benchmarks.core.contenders import CLOSED_FORM, FAST, PAPER, RANKS, Setting, cell, taking_part
from benchmarks.core.setting import cells, setting
from benchmarks.report import RESULTS_DIR, show, write

BITS = 2
COMPARED = ("qlora", "loftq", CLOSED_FORM, PAPER, FAST)
RANKED = ("loftq", CLOSED_FORM, FAST)
SPREAD = ("self_attn.o_proj", "mlp.down_proj")
ERRORS = {"activation": "output_error", "weight": "weight_error"}


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    layers(store, given, taking_part(COMPARED, options.only))
    ranks(store, given, taking_part(RANKED, options.only))


def layers(store: Cells, given: Setting, names: list[str]) -> None:
    found: dict[str, Figures] = {}
    for name in names:
        asked = cell(name, given, BITS)
        figures = asked and store.figures(asked, f"error: {name} at {BITS} bits")
        if figures:
            found[name] = figures
    if not found:
        return
    rows = [row for name, figures in found.items() for row in by_kind(name, figures)]
    show(f"{given.model_dir.name}, {BITS} bits: relative errors of layers, mean over blocks", rows)
    histograms = {name: figures["histograms"] for name, figures in found.items()}
    write("core-error-layers", {"rows": rows, "histograms": histograms})
    for what, column in ERRORS.items():
        chart(
            RESULTS_DIR / f"core-error-{what}.svg",
            f"{given.model_dir.name}, {BITS} bits: {what} error of each layer",
            Axis("layer, in the order in which they run"),
            Axis("relative squared error", log=True),
            {name: in_order(figures, column) for name, figures in found.items()},
        )
    for layer in SPREAD:
        for part in ("Q", "A", "B"):
            chart(
                RESULTS_DIR / f"core-error-spread-{layer}-{part}.svg",
                f"{part} of {layer} in the middle block, {BITS} bits",
                Axis("value"),
                Axis("share of values", log=True),
                {name: spread(figures, layer, part) for name, figures in found.items()},
            )


def by_kind(name: str, figures: Figures) -> list[dict[str, Any]]:
    """Means over the blocks, for each kind of layer."""
    kinds: dict[str, list[dict[str, float]]] = {}
    for block in figures["blocks"]:
        for layer in block["layers"]:
            kinds.setdefault(layer["name"], []).append(layer)
    return [
        {
            "method": name,
            "layer": kind,
            **{what: sum(e[c] for e in errors) / len(errors) for what, c in ERRORS.items()},
        }
        for kind, errors in kinds.items()
    ]


def in_order(figures: Figures, column: str) -> Points:
    errors = [layer[column] for block in figures["blocks"] for layer in block["layers"]]
    return list(enumerate(errors))


def spread(figures: Figures, layer: str, part: str) -> Points:
    """Middle of each bin and the share of the values in it."""
    found = figures["histograms"].get(layer, {}).get(part)
    if not found:
        return []
    width = 2 * found["limit"] / len(found["shares"])
    return [((n + 0.5) * width - found["limit"], s) for n, s in enumerate(found["shares"])]


def ranks(store: Cells, given: Setting, names: list[str]) -> None:
    rows = []
    for name in names:
        for rank in RANKS:
            asked = cell(name, given, BITS, rank)
            figures = asked and store.figures(asked, f"error: {name} at rank {rank}")
            if figures:
                line: dict[str, Any] = {"method": name, "rank": rank}
                line["bits/weight"] = round(figures["bits_per_weight"]["total"], 3)
                scores = figures["scores"].items()
                rows.append(line | {f"ppl {text}": score["perplexity"] for text, score in scores})
    if not rows:
        return
    show(f"{given.model_dir.name}, {BITS} bits: perplexity over rank", rows)
    write("core-error-ranks", {"rows": rows})
    for text in given.scored:
        chart(
            RESULTS_DIR / f"core-error-ranks-{text.name}.svg",
            f"{given.model_dir.name}, {BITS} bits: perplexity on {text.name} over rank",
            Axis("rank"),
            Axis("perplexity", log=True),
            {
                name: [(r["rank"], r[f"ppl {text.name}"]) for r in rows if r["method"] == name]
                for name in names
            },
        )
