"""`report.html`: the figures of a run on one page that needs nothing beside itself.

Everything a user can name (models, layers, texts) goes through `markup.tag`, which escapes it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from apiq_core.reports.html.charts import (
    block_errors,
    kept_epoch,
    layer_errors,
    loss_curves,
    shares,
)
from apiq_core.reports.html.markup import Html, join, tag
from apiq_core.reports.html.page import flat, page, tile_row, time_and_memory
from apiq_core.reports.html.parts import facts, legend, note, row, section, swatch, table
from apiq_core.reports.html.text import (
    ABSENT,
    calibrated_on,
    finite,
    has_adapter,
    how,
    is_dense,
    measured_on,
    networks,
    number,
    size,
    width,
)


def report_html(report: dict[str, Any]) -> str:
    """The page for a `Report.model_dump(mode="json")`."""
    title = f"{report['model']} at {width(report)}"
    return page(
        title,
        note(how(report)),
        _tiles(report),
        _warnings(report["warnings"]),
        _results(report),
        _where_bits_went(report),
        _plan(report),
        _errors(report["blocks"]),
        _losses(report),
        _polish(report["polish"]),
        time_and_memory(report["seconds"], report["peak_memory_bytes"], report["device"]),
        section("Settings", facts(flat(report["config"]))),
        section("Made with", facts(_made_with(report))),
    )


def _tiles(report: dict[str, Any]) -> Html:
    rows, bits, stored = networks(report), report["bits_per_weight"], report["bytes"]
    made, full, rounded = rows[-1], rows[0], rows[1]
    baseline = report["config"]["method"] != "rtn"
    tiles = []
    if report.get("perplexity"):
        beside = f"; rounding {rounded.perplexity}" if baseline else ""
        tiles.append(("Perplexity", made.perplexity, f"full precision {full.perplexity}{beside}"))
    if report.get("kl"):
        beside = f"; rounding {rounded.kl}" if baseline else ""
        tiles.append(("KL to full precision", made.kl, f"nats per token{beside}"))
    split = f"weights {bits['weights']:.2f} + adapter {bits['adapter']:.2f}"
    split = split if has_adapter(report) else "no adapter"
    tiles.append(("Bits per weight", made.bits_per_weight, split))
    tiles.append(("Weight files", made.stored, f"full precision {size(stored['source'])}"))
    return tile_row(tiles)


def _warnings(warnings: Sequence[str]) -> Html:
    if not warnings:
        return Html()
    items = tag("ul", *(tag("li", warning) for warning in warnings))
    return tag("div", tag("b", f"Warnings ({len(warnings)})"), items, class_="warnings")


def _results(report: dict[str, Any]) -> Html:
    rows = networks(report)
    columns = ("", "perplexity", "× full", "KL, nats", "bits per weight", "weight files")  # noqa: RUF001
    body = (
        row(
            (x.name, x.perplexity, x.ratio, x.kl, x.bits_per_weight, x.stored),
            class_="ours" if x is rows[-1] else None,
        )
        for x in rows
    )
    return section(
        "Results",
        table(columns, body),
        note(measured_on(report)),
        note(calibrated_on(report)),
    )


def _where_bits_went(report: dict[str, Any]) -> Html:
    bits, code = report["bits_per_weight"], _mean_width(report)
    per_weight = [
        ("a", "codes", code),
        ("b", "scales and zero points", bits["weights"] - code),
        ("c", "adapter", bits["adapter"]),
    ]
    stored, stored_bits = report["bytes"], 16 if is_dense(report) else bits["weights"]
    packed = report["quantized_weight_count"] * stored_bits / 8
    rest = max(0, stored.get("model", 0) - packed)
    files = [
        ("a", "quantized weights", packed),
        ("b", "embeddings, norms", rest),
        ("c", "adapter", stored.get("adapter", 0)),
    ]
    source = stored["source"]
    return section(
        "Where the bits went",
        tag(
            "p", f"Of the {bits['total']:.2f} bits stored for each quantized weight:", class_="note"
        ),
        _shares(per_weight, lambda amount: f"{amount:.2f}"),
        note(f"Of the files; the full width is the {size(source)} of full precision:"),
        _shares(files, size, whole=source),
    )


def _mean_width(report: dict[str, Any]) -> float:
    """Bits of a code."""
    if report["config"]["bits"] is not None:
        return float(report["config"]["bits"])
    layers = [layer for block in report["blocks"] for layer in block["layers"]]
    codes = sum(layer["d_in"] * layer["d_out"] * layer["bits"] for layer in layers)
    return float(codes / max(1, sum(layer["d_in"] * layer["d_out"] for layer in layers)))


def _plan(report: dict[str, Any]) -> Html:
    """What each layer got of a budget."""
    blocks = report["blocks"]
    if report["config"]["bits"] is not None or not blocks:
        return Html()
    names = [layer["name"] for layer in blocks[0]["layers"]]
    rows = []
    for block in blocks:
        by_name = {layer["name"]: layer for layer in block["layers"]}
        cells = (f"{by_name[name]['bits']} + r{by_name[name]['rank']}" for name in names)
        rows.append(row((str(block["index"]), *cells)))
    return section(
        "How the budget was spent",
        note(
            "Bits of the codes and rank of the adapter, chosen for each layer by what they gain. "
            "Layers with one input have one width."
        ),
        table(("block", *(name.rsplit(".", 1)[-1] for name in names)), rows),
    )


def _shares(
    parts: list[tuple[str, str, float]], write: Callable[[float], str], whole: float | None = None
) -> Html:
    shown = [part for part in parts if part[2] > 0]
    items = (join(swatch(kind), name, " ", tag("b", write(x))) for kind, name, x in shown)
    return join(shares([(kind, x) for kind, _, x in shown], whole), legend(*items))


def _errors(blocks: Sequence[dict[str, Any]]) -> Html:
    if not blocks:
        return Html()
    return join(
        section(
            "Error of each block",
            note(
                "How far each block's output is from full precision's on held-out windows, "
                "relative to its size (squared norms, log scale). Each block inherits the error "
                "of those before it; the share falls where a block puts out a few huge values."
            ),
            block_errors(blocks),
        ),
        section(
            "Error of each layer",
            note(
                "The same for the output of each linear layer. Deeper is larger, on a log scale; "
                "a cell's tooltip has its numbers."
            ),
            layer_errors(blocks),
            _layer_table(blocks),
        ),
    )


def _layer_table(blocks: Sequence[dict[str, Any]]) -> Html:
    """What the heat map says, for paper: median and worst block of each layer."""
    by_name: dict[str, list[tuple[float, int, dict[str, Any]]]] = {}
    for block in blocks:
        for layer in block["layers"]:
            error = finite(layer["output_error"])
            order = float("inf") if error is None else error
            by_name.setdefault(layer["name"], []).append((order, block["index"], layer))
    rows = []
    for name, cells in by_name.items():
        cells.sort(key=lambda cell: cell[0])
        median, worst = cells[(len(cells) - 1) // 2], cells[-1]
        weight = sorted(finite(cell[2]["weight_error"]) or 0 for cell in cells)
        shape = f"{worst[2]['d_in']} → {worst[2]['d_out']}"
        rows.append(
            row(
                (
                    name,
                    shape,
                    number(median[0]),
                    f"{number(worst[0])} (block {worst[1]})",
                    number(weight[(len(weight) - 1) // 2]),
                )
            )
        )
    columns = ("layer", "in → out", "median error", "worst", "median weight error")
    return table(columns, rows)


def _losses(report: dict[str, Any]) -> Html:
    blocks = [block for block in report["blocks"] if block["train_loss"]]
    if not blocks:
        return Html()
    return section(
        "Gradient phase",
        note(
            "Loss per epoch of each block, relative to its own first value (grey line); all on one "
            "scale. The number is the change of the held-out loss from the start to the kept state."
        ),
        legend(
            join(swatch("a"), "held-out windows"),
            join(swatch("b"), "training windows"),
            Html("○ the state that was kept"),
        ),
        loss_curves(blocks),
    )


def _polish(polish: dict[str, Any] | None) -> Html:
    if polish is None:
        return Html()
    held_out, trained = polish["held_out_loss"], [None, *polish["train_loss"]]
    kept = kept_epoch(polish["train_loss"], held_out)
    rows = [
        row(
            (
                f"epoch {epoch}" if epoch else "before",
                ABSENT if trained[epoch] is None else number(trained[epoch]),
                number(loss),
            ),
            class_="ours" if epoch == kept else None,
        )
        for epoch, loss in enumerate(held_out)
    ]
    return section(
        "Polish of the whole model",
        note(
            "KL to full precision plus the relative distance of the last hidden states, a mean "
            "over tokens. The state in bold was kept."
        ),
        table(("", "training windows", "held-out windows"), rows),
    )


def _made_with(report: dict[str, Any]) -> dict[str, Any]:
    counts = {
        "model_type": report["model_type"],
        "parameters": f"{report['parameter_count']:,}",
        "of them quantized": f"{report['quantized_weight_count']:,}",
        "blocks": len(report["blocks"]),
        "device": report["device"],
    }
    return {**counts, **report["versions"]}
