"""Finetuning, the whole of it on one page: ApiQ's second step (arXiv 2402.05147, section 6).

Load the quantized model with its integers packed, put on it what the method trains (`methods.py`;
by default the adapter that was fitted with it), train that on the rows of a dataset, keep what did
best on held-out rows, and write it down.
"""

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from apiq_core.checkpoint import write_text
from apiq_core.device import compute_dtype, matmul_dtype, pick_device
from apiq_core.errors import Stopped, UserError
from apiq_core.events import Event, OnEvent, ShouldStop
from apiq_core.finetune import processes
from apiq_core.finetune.answers import exact_match, questions
from apiq_core.finetune.base import Base
from apiq_core.finetune.config import HELD_OUT_FRACTION, NEW_RANK, FinetuneConfig
from apiq_core.finetune.data.examples import Example
from apiq_core.finetune.data.training_data import load_data
from apiq_core.finetune.identity import identify
from apiq_core.finetune.memory import keep_few_kernels
from apiq_core.finetune.methods import METHODS
from apiq_core.finetune.mixed_precision import use_matmul_dtype
from apiq_core.finetune.packed.packed_model import load_model, packed_layers, packed_width
from apiq_core.finetune.parameters import trained_parameters
from apiq_core.finetune.reports.model_card import model_card
from apiq_core.finetune.reports.projection import Shape, Training, projected
from apiq_core.finetune.reports.report import FinetuneReport, Scores
from apiq_core.finetune.reports.report_html import report_html
from apiq_core.finetune.run import Run
from apiq_core.finetune.scoring import mean_loss
from apiq_core.finetune.train import train
from apiq_core.formats import compressed_tensors_mixed
from apiq_core.inspect import read_json
from apiq_core.layout import training_checkpoint
from apiq_core.meter import Meter
from apiq_core.tokenizer import check_ids, load_tokenizer


def _tell_nobody(event: Event) -> None:
    pass


def finetune(
    model_dir: Path,
    adapter_dir: Path | None,
    dataset: Path,
    out_dir: Path,
    config: FinetuneConfig,
    *,
    on_event: OnEvent = _tell_nobody,
    should_stop: ShouldStop = lambda: False,
    validation: Path | None = None,
    device: str = "auto",
    base_name: str | None = None,
    model_name: str | None = None,
    is_job: bool = False,
    is_on_hub: bool = False,
    bits: int | None = None,
    group_size: int | None = None,
) -> FinetuneReport:
    """Train the model in `model_dir`; leaves adapter/ or, of `l4q`, model/ in `out_dir`, and
    report.json and README.md beside it.

    `model_dir` is a quantize job's `model/` or a full-precision checkpoint, `adapter_dir` the
    job's `adapter/`, or None if there is none. `dataset` is JSONL (`data.rows`) or,
    as `.txt`, plain text; `validation` is a file alike that is held out, or None for a share of
    `dataset`. `base_name` is what the card calls the base, a quantize job if `is_job`, an id of
    the hub if `is_on_hub`, and `model_name` the model that it is of. `bits` and `group_size` say to
    what `l4q` quantizes a full-precision checkpoint. A run that was stopped goes on from its
    checkpoint in `out_dir`. Raises `UserError` for input that cannot be trained on.

    Of several `processes` all call it alike, on one machine; one stops them all. Only the main one
    tells and writes, and the others return its report.
    """

    def check_stop() -> None:
        if processes.any_of(should_stop()):
            raise Stopped

    def check_stop_alone() -> None:
        if should_stop():
            processes.any_of(True)  # which the others wait for
            raise Stopped

    keep_few_kernels()
    if not processes.is_main():
        on_event = _tell_nobody
    if validation is None and config.validation_fraction is None:
        config = config.model_copy(update={"validation_fraction": HELD_OUT_FRACTION})
    if adapter_dir is None and config.rank is None:
        config = config.model_copy(update={"rank": NEW_RANK})
    base, method = Base(model_dir, adapter_dir, bits, group_size), METHODS[config.method]
    target = pick_device(device)
    meter = Meter(on_event, target)
    out_dir.mkdir(parents=True, exist_ok=True)

    with meter.phase("preparing"):
        tokenizer = load_tokenizer(model_dir)
        _check_length(config.max_length, model_dir)
        data = load_data(dataset, validation, tokenizer, config, on_event, check_stop)
        examples, members, held_out = data.examples, data.members, data.held_out
        model = load_model(model_dir, target, compute_dtype(target))
        check_ids(max(max(example.tokens) for example in examples), model.config.vocab_size)
        use_matmul_dtype(model, target)
        is_quantized = packed_layers(model) != {}
        _check_grid(base, config, is_quantized=is_quantized)
        trained = method.attach(model, base, config)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        run = Run(
            trained,
            examples,
            members,
            held_out[: config.validation_rows],
            config,
            training_checkpoint(out_dir),
            identify(base, dataset, validation, config, target),
            target,
            on_event,
            check_stop,
            meter.phase_peak_bytes,
        )

    with meter.phase("training"):
        state = train(run)

    with meter.phase("evaluating"):
        count = sum(p.numel() for p in trained_parameters(trained).values())
        training = Training.of(run, count)
        method.store(trained)
        after = mean_loss(run, run.held_out)
        _check_stored(after, config)
        before = state.points[0].validation_loss
        if not processes.is_main():
            return _report_of_main(out_dir)
        asked = questions(tokenizer, (examples[i] for i in held_out))
        answers = exact_match(
            trained,
            tokenizer,
            islice(asked, config.answered_rows),
            new_tokens=config.answer_tokens,
            on_event=on_event,
            check_stop=check_stop_alone,
        )

    with meter.phase("packaging"):
        method.write(trained, base, out_dir)
        report = FinetuneReport(
            base=base_name or model_dir.name,
            model=model_name or base_name or model_dir.name,
            **packed_width(model),
            config=_as_used(run, base),
            rows={"train": len(members), "validation": len(run.held_out)},
            tokens={
                "train": _learned(examples, members),
                "validation": _learned(examples, run.held_out),
            },
            files=data.files,
            overlap=data.overlap,
            trained_parameters=count,
            validation_loss=Scores(before=before, after=after),
            perplexity=Scores(before=math.exp(min(before, 700)), after=math.exp(min(after, 700))),
            exact_match=answers,
            best_step=state.best_step,
            points=state.points,
            seconds=meter.seconds,
            peak_memory_bytes=meter.peak_memory_bytes,
            projected_memory_bytes=projected(
                Shape.of(model.config), training, meter.peak_memory_bytes["training"]
            ),
            device=target.type,
            matmul_dtype=str(matmul_dtype(target)).removeprefix("torch."),
        )
    write_text(out_dir / "report.json", report.model_dump_json(indent=2) + "\n")
    write_text(out_dir / "report.html", report_html(report.model_dump(mode="json")))
    is_mixed = compressed_tensors_mixed.is_format_of(read_json(model_dir / "config.json"))
    card = model_card(report, is_job=is_job, is_on_hub=is_on_hub, is_mixed=is_mixed)
    write_text(out_dir / "README.md", card)
    run.checkpoint_file.unlink(missing_ok=True)
    processes.any_of(False)  # the others read the report now
    return report


def _as_used(run: Run, base: Base) -> FinetuneConfig:
    """The config of `run` with what `base` and the number of steps decided."""
    used: dict[str, Any] = {
        "evaluate_every": run.evaluate_every(),
        "checkpoint_every": run.checkpoint_every(),
    }
    if base.adapter_dir is None and run.config.method == "lora":
        used["adapter"] = run.config.adapter or "lora"
    return run.config.model_copy(update=used)


def _report_of_main(out_dir: Path) -> FinetuneReport:
    if processes.any_of(False):
        raise Stopped
    return FinetuneReport.model_validate_json((out_dir / "report.json").read_bytes())


def _check_length(max_length: int, model_dir: Path) -> None:
    context = int(read_json(model_dir / "config.json").get("max_position_embeddings") or 2**31)
    if max_length > context:
        raise UserError(
            "illegal_length",
            f"max_length is {max_length}; legal: at most {context}, the model's context",
            param="max_length",
            value=max_length,
            legal={"at_most": context},
        )


def _check_grid(base: Base, config: FinetuneConfig, *, is_quantized: bool) -> None:
    """`bits` and `group_size` are of `l4q` from full precision, and of nothing else."""
    if config.method == "l4q" and not is_quantized:
        return
    for code, name, value in (
        ("illegal_bits", "bits", base.bits),
        ("illegal_group_size", "group_size", base.group_size),
    ):
        if value is not None:
            raise UserError(
                code,
                f"{name} is {value}, but "
                + (
                    "base is quantized already"
                    if is_quantized
                    else f"{config.method} rounds nothing"
                )
                + f"; legal: no {name}",
                param=name,
                value=value,
            )


def _check_stored(loss: float, config: FinetuneConfig) -> None:
    if not math.isfinite(loss):
        raise UserError(
            "diverged",
            f"the held-out loss is {loss} once what was trained is rounded to the dtype of its "
            "file; legal: a smaller lr",
            param="lr",
            value=config.lr,
        )


def _learned(examples: Sequence[Example], members: Sequence[int]) -> int:
    return sum(sum(examples[i].learned[1:]) for i in members)
