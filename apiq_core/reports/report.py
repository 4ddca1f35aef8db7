"""The figures of a run, `report.json`; `docs/reference/report.md` explains each name."""

import json
import platform
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from pydantic import BaseModel

from apiq_core import __version__
from apiq_core.block import Block, BlockResult
from apiq_core.budget.plan import MIXED_ZERO_POINT_BITS, Plan, bits_per_weight
from apiq_core.calibration import Windows
from apiq_core.config import NORMAL_FLOAT, QuantizeConfig
from apiq_core.device import matmul_dtype
from apiq_core.evaluate import Scores
from apiq_core.inspect import ModelFacts
from apiq_core.meter import Meter
from apiq_core.polish import Polished
from apiq_core.reports.layer_errors import LayerError

MAX_LISTED_TOKENS = 65_536


class LayerReport(BaseModel):
    name: str
    d_in: int
    d_out: int
    bits: int
    rank: int
    output_error: float  # ||X W^T - Xq (Q + B A)^T||^2 / ||X W^T||^2 on held-out windows
    weight_error: float  # ||W - (Q + B A)||^2 / ||W||^2


class BlockReport(BaseModel):
    index: int
    error: float = 0.0  # ||F(X) - Fq(Xq)||^2 / ||F(X)||^2 on held-out windows
    seconds: float = 0.0  # in the run that quantized it
    train_loss: list[float]  # per epoch of the gradient phase
    held_out_loss: list[float]  # before it, then per epoch; the smallest was kept
    held_out_error: list[float] = []  # as often: ||F(X) - Fq(Xq)||^2 / ||F(X)||^2
    held_out_seconds: list[float] = []  # as often: since the block was begun
    warning: str | None = None
    layers: list[LayerReport]

    @classmethod
    def of(cls, block: Block, errors: dict[str, LayerError], result: BlockResult) -> Self:
        """What is known before the block is written: its error and its times are added later."""
        shapes = {name: weight.shape for name, weight in block.linear_weights.items()}
        return cls(
            index=block.index,
            train_loss=result.train_loss,
            held_out_loss=result.held_out_loss,
            held_out_error=result.held_out_error,
            warning=result.warning,
            layers=[
                LayerReport(
                    name=name,
                    d_in=d_in,
                    d_out=d_out,
                    bits=block.specs[name].bits,
                    rank=block.specs[name].rank,
                    output_error=errors[name].output,
                    weight_error=errors[name].weight,
                )
                for name, (d_out, d_in) in shapes.items()
            ],
        )


class ScoredText(BaseModel):
    """On what perplexity and KL were measured."""

    source: str
    windows: int
    length: int
    tokens: int
    in_domain: bool  # true: another part of the text that was calibrated on
    token_ids: list[list[int]] | None  # the windows themselves, unless there are very many


class CalibratedText(BaseModel):
    source: str
    train_windows: int
    held_out_windows: int
    length: int
    tokens: int  # of the training windows


class BitsPerWeight(BaseModel):
    """Stored bits for each quantized weight."""

    weights: float  # codes, scales and zero points
    adapter: float
    total: float

    @classmethod
    def of(cls, weights: float, adapter: float) -> Self:
        return cls(
            weights=round(weights, 4), adapter=round(adapter, 4), total=round(weights + adapter, 4)
        )


class Report(BaseModel):
    model: str
    model_type: str
    parameter_count: int
    quantized_weight_count: int
    config: QuantizeConfig
    calibration: CalibratedText | None = None
    evaluation: ScoredText | None = None
    perplexity: dict[str, float] | None = None
    kl: dict[str, float] | None = None  # nats per token
    bits_per_weight: BitsPerWeight
    bytes: dict[str, int]
    seconds: dict[str, float] = {}
    peak_memory_bytes: dict[str, int] = {}
    blocks: list[BlockReport] = []
    polish: Polished | None = None  # only if there was one
    warnings: list[str] = []
    device: str
    matmul_dtype: str  # of the products inside blocks while quantizing
    versions: dict[str, str]

    @classmethod
    def begin(
        cls, config: QuantizeConfig, facts: ModelFacts, model: str, device: torch.device
    ) -> Self:
        return cls(
            model=model,
            model_type=facts.model_type,
            parameter_count=facts.parameter_count,
            quantized_weight_count=facts.quantized_weight_count,
            config=config,
            bits_per_weight=BitsPerWeight.of(0, 0),
            bytes={"source": facts.size_bytes},
            device=str(device),
            matmul_dtype=str(matmul_dtype(device)).removeprefix("torch."),
            versions={
                "apiq_core": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        )

    def describe_texts(self, windows: Windows) -> None:
        calibration, evaluation = self.config.calibration, self.config.evaluation
        source = calibration.source or "builtin"
        self.calibration = CalibratedText(
            source=source,
            train_windows=len(windows.train),
            held_out_windows=len(windows.held_out),
            length=calibration.length,
            tokens=windows.train.numel(),
        )
        if evaluation.samples:
            listed = windows.evaluation.numel() <= MAX_LISTED_TOKENS
            self.evaluation = ScoredText(
                source=evaluation.source or source,
                windows=evaluation.samples,
                length=evaluation.length,
                tokens=windows.evaluation.numel(),
                in_domain=windows.in_domain,
                token_ids=windows.evaluation.tolist() if listed else None,
            )

    def describe_plan(self, plan: Plan, facts: ModelFacts) -> None:
        zero_point_bits = None
        if self.config.bits_per_weight is not None:
            zero_point_bits = MIXED_ZERO_POINT_BITS
        elif self.config.method in NORMAL_FLOAT:
            zero_point_bits = 0
        weights = bits_per_weight(plan, facts, zero_point_bits)
        self.bits_per_weight = BitsPerWeight.of(weights, 0)

    def add_scores(self, scores: Scores) -> None:
        self.perplexity, self.kl = scores.perplexity, scores.kl

    def close(self, meter: Meter, out_dir: Path, adapter_bytes: int) -> None:
        """Take over what the run measured of itself and of its files.

        `adapter_bytes` is the size of the adapter's tensors alone.
        """
        self.bits_per_weight = BitsPerWeight.of(
            self.bits_per_weight.weights, 8 * adapter_bytes / self.quantized_weight_count
        )
        self.seconds = meter.seconds | {"total": round(sum(meter.seconds.values()), 3)}
        self.peak_memory_bytes = meter.peak_memory_bytes
        found = [block.warning for block in self.blocks]
        found += [self.polish.warning] if self.polish else []
        self.warnings = [warning for warning in found if warning]
        for name in ("model", "adapter"):
            files = (out_dir / name).glob("*.safetensors")
            self.bytes[name] = sum(file.stat().st_size for file in files)

    def headline(self) -> dict[str, Any]:
        """What a job shows of it: everything but the blocks, the texts and the config.

        Strict JSON: a figure that is not finite is None.
        """
        shown = {
            "perplexity",
            "kl",
            "bits_per_weight",
            "bytes",
            "seconds",
            "peak_memory_bytes",
            "warnings",
        }
        content: dict[str, Any] = json.loads(self.model_dump_json(include=shown))
        return content
