"""Every knob of finetuning, written once; as in `apiq_core.config`, schema and help come from here.

A field that is `None` depends on the model or the data at hand.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Method = Literal["lora", "qa-lora", "l4q"]
Train = Literal["all", "attention", "mlp"]
LR_QUANTIZER = 1e-2
NEW_RANK = 16  # of an adapter, where the base has none
HELD_OUT_FRACTION = 0.05
SCORES = 10  # of a run
MICRO_BATCH_SIZE = 4
# fields that a base with an adapter has no use for, and the code that refuses each
OF_A_NEW_ADAPTER = {"rank": "illegal_rank", "adapter": "illegal_adapter"}


class FinetuneConfig(BaseModel):
    """How to train an adapter on a frozen, quantized model."""

    model_config = ConfigDict(extra="forbid", validate_default=True, strict=True)

    method: Method = Field(
        "lora",
        description="`lora`: an adapter beside frozen weights, that of the base or a new one. "
        "`qa-lora`: a new one that sees the sums of the quantization groups; the base has groups "
        "and no adapter. `l4q`: the integers of a quantized base, by LoRA inside the quantizer, "
        "and its scales and zero points; publishes `model/` in as few bits, and no adapter.",
    )
    train: Train = Field(
        "all", description="Which layers are trained: `all`, those of `attention` or of the `mlp`."
    )
    rank: int | None = Field(
        None,
        ge=1,
        le=512,
        description=f"Rank of a new adapter, for a base that has none. Default: {NEW_RANK}.",
    )
    adapter: Literal["lora", "dora"] | None = Field(
        None,
        description="Kind of a new adapter of method `lora`, for a base that has none. Default: "
        "`lora`.",
    )
    epochs: int = Field(1, ge=1, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Optimiser steps, at most. Default: as many as `epochs` make.",
    )
    batch_size: int = Field(16, ge=1, le=4096, description="Rows of an optimiser step.")
    micro_batch_size: int = Field(
        MICRO_BATCH_SIZE,
        ge=1,
        le=4096,
        description="Rows in memory at a time; their gradients are accumulated; not more than "
        "`batch_size`. Halved once if memory runs out.",
    )
    lr: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="Largest learning rate of LoRA's factors, or of the base's adapter.",
    )
    # on a Llama of four blocks at 2 bits (docs/results/finetune.md) less of it learns less
    lr_quantizer: float = Field(
        LR_QUANTIZER,
        gt=0,
        le=1,
        description="Of `l4q`: largest learning rate of the scales (relative) and of the zero "
        "points (in steps of the grid).",
    )
    warmup_fraction: float = Field(
        0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW's weight decay.")
    max_norm: float = Field(
        1.0, gt=0, le=1e6, description="Norm to which a step's gradient is clipped."
    )
    max_length: int = Field(512, ge=8, le=32768, description="Tokens of a row, at most.")
    truncate: bool = Field(
        False, description="Cut rows that are longer than `max_length`, instead of refusing them."
    )
    validation_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the rows that is held out, to pick the best state; at least one row. "
        f"Default: {HELD_OUT_FRACTION}, unless there is a validation set of its own.",
    )
    validation_rows: int = Field(
        128,
        ge=1,
        le=100_000,
        description="Held-out rows that are scored, at most: a random sample.",
    )
    evaluate_every: int | None = Field(
        None,
        ge=1,
        description=f"Steps between two scores. Default: 1/{SCORES} of all steps, at least 1.",
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="Steps between two checkpoints. Default: as `evaluate_every`."
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Scores in a row without a new best after which training stops. Default: "
        "never.",
    )
    answered_rows: int = Field(
        32,
        ge=0,
        le=10_000,
        description="Held-out rows with a question whose answer is decoded at the end, at most; "
        "counted is whether its last number is right. Of a chat the first question is asked.",
    )
    answer_tokens: int = Field(256, ge=1, le=8192, description="Tokens of an answer, at most.")
    gradient_checkpointing: bool = Field(
        True, description="Run each block once more going back, instead of keeping what is in it."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of the split, the order and a new adapter.")

    # checks of fields, not of the model, so that an error names its field; a default is no error,
    # whether it is spelled out, as in the `input` of a job, or not
    @field_validator("lr_quantizer")
    @classmethod
    def _of_l4q(cls, lr: float, info: ValidationInfo) -> float:
        method = info.data.get("method", "l4q")  # absent where it is wrong itself
        if lr != LR_QUANTIZER and method != "l4q":
            raise ValueError(f"method is {method}, which trains no quantizer; legal only with l4q")
        return lr

    @field_validator("micro_batch_size")
    @classmethod
    def _of_a_batch(cls, rows: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", rows)
        if rows > batch_size and rows != MICRO_BATCH_SIZE:
            raise ValueError(f"more than batch_size; legal: at most {batch_size}")
        return rows

    @field_validator("adapter")
    @classmethod
    def _of_the_method(cls, adapter: str | None, info: ValidationInfo) -> str | None:
        method = info.data.get("method", "lora")  # absent where it is wrong itself
        if adapter is not None and method != "lora":
            raise ValueError(f"method is {method}, which has its own; legal only with method lora")
        return adapter
