"""`report.html` of a finetune job: the curves, and what was measured, on one page."""

from collections.abc import Sequence
from typing import Any

from apiq_core.finetune.reports.report_chart import curves
from apiq_core.reports.html.markup import Html, join
from apiq_core.reports.html.page import flat, page, tile_row, time_and_memory
from apiq_core.reports.html.parts import facts, legend, note, row, section, swatch, table
from apiq_core.reports.html.text import ABSENT, number, size


def report_html(report: dict[str, Any]) -> str:
    """The page for a `FinetuneReport.model_dump(mode="json")`."""
    rows, tokens = report["rows"], report["tokens"]
    trained_on = (
        f"Trained on {rows['train']:,} rows ({tokens['train']:,} tokens that carry loss); "
        f"scored on {rows['validation']:,} that were held out."
    )
    return page(
        f"{report['model']}, finetuned",
        note(trained_on),
        _tiles(report),
        _curves(report["points"], report["best_step"]),
        time_and_memory(report["seconds"], report["peak_memory_bytes"], report["device"]),
        _projection(report["projected_memory_bytes"]),
        section("Settings", facts(flat(report["config"]))),
        section("Made with", facts(_made_with(report))),
    )


def _made_with(report: dict[str, Any]) -> dict[str, Any]:
    about = {
        name: report[name] for name in ("base", "bits", "group_size", "device", "matmul_dtype")
    }
    known = {name: value for name, value in about.items() if value is not None}
    return {**known, **report["versions"]}


def _tiles(report: dict[str, Any]) -> Html:
    loss, perplexity = report["validation_loss"], report["perplexity"]
    tiles = [
        ("Held-out loss", f"{loss['after']:.4f}", f"nats a token; {loss['before']:.4f} before"),
        ("Perplexity", number(perplexity["after"]), f"{number(perplexity['before'])} before"),
        ("Trained parameters", f"{report['trained_parameters']:,}", "everything else is frozen"),
    ]
    if report["exact_match"] is not None:
        share = f"{100 * report['exact_match']:.1f} %"
        tiles.append(("Right final numbers", share, "of held-out questions, decoded greedily"))
    return tile_row(tiles)


def _curves(points: Sequence[dict[str, Any]], best_step: int) -> Html:
    rows = (
        row(
            (
                f"{point['step']:,}",
                ABSENT if point["train_loss"] is None else f"{point['train_loss']:.4f}",
                f"{point['validation_loss']:.4f}",
                f"{point['lr']:.3g}",
                ABSENT if point["tokens_per_s"] is None else f"{point['tokens_per_s']:,.0f}",
            ),
            class_="ours" if point["step"] == best_step else None,
        )
        for point in points
    )
    columns = ("step", "training loss", "held-out loss", "learning rate", "tokens/s")
    return section(
        "Loss over the steps",
        note("Nats a token that carries loss. Training: the mean since the point before."),
        legend(
            join(swatch("a"), "held-out rows"),
            join(swatch("b"), "training rows"),
            Html("○ the state that is published"),
        ),
        curves(points, best_step),
        table(columns, rows),
    )


def _projection(projected: dict[str, int]) -> Html:
    rows = (row((name, size(size_bytes))) for name, size_bytes in projected.items())
    return section(
        "Memory of larger models",
        note(
            "What the same settings would take: this run's peak, and what weights, adapter with "
            "its optimiser, and activations of the larger model take more. Computed, not measured."
        ),
        table(("model", "peak memory"), rows),
    )
