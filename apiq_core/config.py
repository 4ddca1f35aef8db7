"""Every knob of the algorithm, written once.

These models are at the same time the request schema of the service, its OpenAPI text and
the help of the command line. A field that is `None` is resolved by `apiq_core.resolve`
for the model at hand, before any work starts.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Bits = Literal[2, 3, 4, 8]
BitsPerWeight = Annotated[float, Field(ge=2, le=8)]
WIDTHS: tuple[int, ...] = get_args(Bits)
Method = Literal[
    "apiq-bw", "apiq-lw", "rtn", "gptq", "awq", "omniquant", "loftq", "qlora", "gptq-lora"
]
Recipe = Literal["paper", "fast", "best", "closed-form"]
Format = Literal["compressed-tensors", "dense"]
AdapterName = Literal["lora", "dora", "ia3"]

# the recipes of each method, the default first
RECIPES: dict[Method, tuple[Recipe, ...]] = {
    "apiq-bw": ("fast", "best", "paper"),
    "apiq-lw": ("closed-form", "paper"),
    "rtn": (),
    "gptq": (),
    "awq": (),
    "omniquant": (),
    "loftq": (),
    "qlora": (),
    "gptq-lora": (),
}
WITHOUT_ADAPTER: frozenset[Method] = frozenset({"rtn", "gptq", "awq", "omniquant"})
ADAPTER_NEEDED: frozenset[Method] = frozenset({"loftq", "qlora", "gptq-lora"})
FRESH_ADAPTER: frozenset[Method] = frozenset({"qlora", "gptq-lora"})  # it starts at zero
DATA_FREE: frozenset[Method] = frozenset({"rtn", "loftq", "qlora"})  # calibrate on nothing
# their codes stand for the values of a table, not for steps of a uniform grid
NORMAL_FLOAT: frozenset[Method] = frozenset({"qlora"})

GROUP_SIZES = (32, 64, 128)
PER_CHANNEL = -1
SOURCE_PATTERN = r"^(wikitext2|builtin|dataset:ds_[0-9a-f-]{32,36})$"


_ID_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
MODEL_ID = re.compile(rf"{_ID_PART}(/{_ID_PART})?")
LEGAL_MODEL_ID = (
    "`name` or `org/name`: ASCII letters, digits, `_`, `-` and single `.`, "
    "each part starting with a letter or digit, at most 96 characters a part"
)


def is_model_id(text: str) -> bool:
    """Whether `text` can name a model; what can not never reaches a path or a URL."""
    return MODEL_ID.fullmatch(text) is not None and ".." not in text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, strict=True)


class Calibration(_Strict):
    """The text whose activations the quantized model must keep; `rtn`, `loftq` and `qlora` see
    only the weights."""

    source: Annotated[str, Field(pattern=SOURCE_PATTERN)] | None = Field(
        None,
        description="`wikitext2` (from the hub; the paper's), `builtin` (always there), or "
        "`dataset:ds_...` (uploaded). Default: wikitext2 if the hub answers, else builtin.",
    )
    samples: int = Field(
        64, ge=1, le=8192, description="Number of token windows that are calibrated on."
    )
    length: int = Field(256, ge=8, le=32768, description="Tokens of each window.")
    held_out: int = Field(
        8,
        ge=1,
        le=1024,
        description="Further windows that nothing is trained on; they pick the best state.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Which windows of the text are drawn.")


class Evaluation(_Strict):
    """The text on which perplexity and KL are measured; never calibrated on."""

    source: Annotated[str, Field(pattern=SOURCE_PATTERN)] | None = Field(
        None,
        description="As `calibration.source`. Default: a part of the calibration text that was "
        "set aside (in-domain; the report says so).",
    )
    samples: int = Field(
        16, ge=0, le=1024, description="Number of token windows; 0 skips the evaluation."
    )
    length: int = Field(512, ge=8, le=32768, description="Tokens of each window.")


class Training(_Strict):
    """The gradient phase. Defaults depend on the recipe; those of `omniquant` are its paper's."""

    epochs: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Passes over the calibration windows. paper: 20, omniquant: 20, at "
        "2 bits 40, fast: 2, best: 4.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Windows a step. paper, omniquant: 1, fast and best: 4. `apiq-lw` takes as "
        "many steps, each on the sums over all windows.",
    )
    lr_quantizer: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Learning rate of the quantizer's parameters. "
        "paper, omniquant: 5e-3 (clipping logits), fast and best: 3e-3 (scales, relative).",
    )
    lr_adapter: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Learning rate of the adapter. paper: 5e-4, fast and best: 3e-3.",
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        le=1,
        description="AdamW's weight decay. paper: 0.1, omniquant, fast and best: 0.",
    )
    lr_rounding: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Learning rate of the weights before rounding, in steps of the quantizer. "
        "best: 0.03; others round once.",
    )
    polish_epochs: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Passes over the calibration windows of the end-to-end polish behind the last "
        "block. best: 4, others: 0.",
    )
    polish_lr: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Learning rate of the polish, where there is one. Default: 1e-3.",
    )


@dataclass(frozen=True)
class LayerSpec:
    """How one linear layer is stored."""

    bits: int
    group_size: int  # -1: one group per output channel
    rank: int  # of its adapter; 0: none


def _exactly_one_width(schema: dict[str, Any]) -> None:
    """Says in JSON Schema what the validators of `QuantizeConfig` check across fields."""
    null, given = {"type": "null"}, {"not": {"type": "null"}}
    schema["oneOf"] = [
        {"required": ["bits"], "properties": {"bits": given, "bits_per_weight": null}},
        {
            "required": ["bits_per_weight"],
            "properties": {"bits_per_weight": given, "bits": null, "rank": null},
        },
    ]


class _Width(_Strict):
    """Of what is quantized; a class of its own so that it is read before all that depends on it."""

    bits: Bits | None = Field(
        None,
        description="Bits of every quantized weight: 2, 3, 4 or 8. Exactly one of this and "
        "`bits_per_weight` is given.",
        examples=[2],
    )
    bits_per_weight: BitsPerWeight | None = Field(
        None,
        description="Instead of `bits` and `rank`: a budget for each quantized weight, scales, "
        "zero points and fp16 adapter included. Bits and rank of every layer are chosen for it "
        "from what they gain. Needs `apiq-bw` or `apiq-lw`, and adapter `lora`.",
    )


class QuantizeOptions(_Strict):
    """How to quantize a model, but for the width."""

    group_size: Literal[32, 64, 128, -1] | None = Field(
        None,
        description="Input channels that share a scale and a zero point: 32, 64, 128, or -1 for "
        "one group per output channel. Default: the first of 64, 32, -1 that divides every layer.",
    )
    method: Method = Field(
        "apiq-bw",
        description="`apiq-bw` block-wise ApiQ, `apiq-lw` layer-wise ApiQ. Baselines without "
        "adapter: `rtn` plain round-to-nearest, `gptq`, `awq` and `omniquant`; with one: `loftq`, "
        "and `qlora` (normal float, at 2 to 4 bits) and `gptq-lora`, whose adapter starts at zero.",
    )
    recipe: Recipe | None = Field(
        None,
        description="`apiq-bw`: `fast` (default: closed-form start, then a short gradient phase), "
        "`best` (the rounding is trained too, and the whole model at the end; several times "
        "slower) or `paper` (the paper's optimiser). `apiq-lw`: `closed-form` (default) or "
        "`paper`. Baselines have none.",
    )
    rank: int | None = Field(
        None,
        ge=0,
        le=512,
        description="Rank of the LoRA or DoRA adapter; 0 for none. Default: the largest power of "
        "two up to 64 whose fp16 factors cost at most 0.4 bits per quantized weight; 0 for `ia3` "
        "and for methods without adapter. `bits_per_weight` chooses it for each layer.",
    )
    adapter: AdapterName = Field(
        "lora",
        description="What is stored beside the quantized weights, for PEFT: `lora` low-rank "
        "factors, `dora` the same and a magnitude per output channel, `ia3` one vector per layer "
        "that scales its output or its input. `dora` and `ia3` need `apiq-bw`.",
    )
    formats: list[Format] | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Checkpoint formats to publish; the first is `model/`. `compressed-tensors` "
        "packs the integers, `dense` holds the values they stand for in bf16: as large as the "
        "original. Default: `compressed-tensors`, and for `qlora` `dense`, the only one that can "
        "hold it.",
    )
    calibration: Calibration = Field(default_factory=Calibration)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    training: Training = Field(default_factory=Training)
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random but the windows.")


class QuantizeConfig(QuantizeOptions, _Width):
    """How to quantize a model."""

    model_config = ConfigDict(json_schema_extra=_exactly_one_width)

    def main_format(self) -> Format:
        """That of `model/`; for a config that `resolve` has filled in."""
        if self.formats is None:
            raise ValueError("the config is not resolved")
        return self.formats[0]

    # checks of fields, not of the model, so that an error names its field
    @field_validator("bits_per_weight")
    @classmethod
    def _one_of_two(cls, budget: float | None, info: ValidationInfo) -> float | None:
        bits = info.data.get("bits", 0)  # absent where it is wrong itself
        if bits is None and budget is None:
            raise PydanticCustomError(
                "width_missing", "neither bits nor bits_per_weight is given; legal: one of them"
            )
        if bits and budget is not None:
            raise ValueError(f"bits is given too, {bits}; legal: one of them")
        return budget

    @field_validator("rank")
    @classmethod
    def _no_rank_beside_a_budget(cls, rank: int | None, info: ValidationInfo) -> int | None:
        if rank is not None and info.data.get("bits_per_weight") is not None:
            raise ValueError("bits_per_weight chooses the ranks; legal: leave rank out")
        return rank

    def may_have_adapter(self) -> bool:
        """Whether something is stored for PEFT; for a config that `resolve` has filled in. A budget
        may come to rank 0 everywhere."""
        return self.method not in WITHOUT_ADAPTER and (self.rank != 0 or self.adapter == "ia3")

    def layer_spec(self) -> LayerSpec:
        """Of every linear layer of every block, where `bits` says it for all of them; for a config
        that `resolve` has filled in."""
        if self.bits is None or self.group_size is None or self.rank is None:
            raise ValueError("the config is not resolved, or chooses for each layer")
        return LayerSpec(self.bits, self.group_size, self.rank)
