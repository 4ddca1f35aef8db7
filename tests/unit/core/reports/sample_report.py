"""A report as `quantize` would dump it, without a run: built through the schema itself."""

from typing import Any

from apiq_core.config import QuantizeConfig
from apiq_core.reports.report import (
    BitsPerWeight,
    BlockReport,
    CalibratedText,
    LayerReport,
    Report,
    ScoredText,
)

LAYERS = {"self_attn.q_proj": (64, 64), "mlp.up_proj": (64, 128), "mlp.down_proj": (128, 64)}


def sample_report(*, blocks: int = 2, **changes: Any) -> dict[str, Any]:
    """An `apiq-bw` report; `changes` replace fields of the dump."""
    report = Report(
        model="org/tiny",
        model_type="llama",
        parameter_count=180_800,
        quantized_weight_count=147_456,
        config=QuantizeConfig.model_validate(
            {
                "bits": 2,
                "group_size": 64,
                "recipe": "fast",
                "rank": 4,
                "training": {"epochs": 2, "batch_size": 4, "lr_adapter": 1e-4},
            }
        ),
        calibration=CalibratedText(
            source="builtin", train_windows=16, held_out_windows=8, length=64, tokens=1024
        ),
        evaluation=ScoredText(
            source="wikitext2", windows=4, length=64, tokens=256, in_domain=False, token_ids=[[1]]
        ),
        perplexity={
            "full_precision": 20.0,
            "rtn": 4321.0,
            "quantized": 40.0,
            "quantized_with_adapter": 25.0,
        },
        kl={"rtn": 5.5, "quantized": 0.75, "quantized_with_adapter": 0.25},
        bits_per_weight=BitsPerWeight(weights=2.2812, adapter=0.4444, total=2.7256),
        bytes={"source": 361_600, "model": 155_482, "adapter": 16_187},
        seconds={"calibrating": 0.5, "quantizing": 125.0, "packaging": 0.1, "total": 125.6},
        peak_memory_bytes={"calibrating": 480_000_000, "quantizing": 460_000_000},
        blocks=[_block(index) for index in range(blocks)],
        device="cpu",
        matmul_dtype="float32",
        versions={"apiq_core": "0.1.0", "torch": "2.13.0"},
    )
    return report.model_dump(mode="json") | changes


def rtn_report(**changes: Any) -> dict[str, Any]:
    """Of the baseline: no adapter, nothing trained, nothing calibrated."""
    config = QuantizeConfig.model_validate(
        {"bits": 4, "group_size": 32, "method": "rtn", "rank": 0}
    )
    report = sample_report(**{"config": config.model_dump(mode="json")} | changes)
    report["bytes"]["adapter"] = 0
    report["bits_per_weight"] = {"weights": 4.625, "adapter": 0.0, "total": 4.625}
    report["calibration"] |= {"train_windows": 0, "tokens": 0}
    for block in report["blocks"]:
        block |= {"train_loss": [], "held_out_loss": []}
    return report


def _block(index: int) -> BlockReport:
    return BlockReport(
        index=index,
        error=0.01 * (index + 1),
        seconds=0.25,
        train_loss=[0.5, 0.4],
        held_out_loss=[0.6, 0.54, 0.57],
        layers=[
            LayerReport(
                name=name,
                d_in=d_in,
                d_out=d_out,
                bits=2,
                rank=4,
                output_error=0.02 * (index + 1),
                weight_error=0.1,
            )
            for name, (d_in, d_out) in LAYERS.items()
        ],
    )
