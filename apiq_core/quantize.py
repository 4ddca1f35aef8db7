"""ApiQ, the whole method on one page (arXiv 2402.05147, sections 4 and 5).

Block by block: load it, see what it should put out, quantize its weights and fit its adapter so
that it still does, write it down, and send both networks' activations on to the next block -
ours through the block as it was written, so that later blocks correct what earlier ones lost.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from apiq_core.artifact import Artifact
from apiq_core.block import Block, BlockResult, student_weights
from apiq_core.budget.plan import plan_from_text, plan_to_text, uniform_plan
from apiq_core.budget.planning import make_plan
from apiq_core.calibration import draw_windows
from apiq_core.checkpoint import Checkpoint, write_text
from apiq_core.config import QuantizeConfig
from apiq_core.device import compute_dtype, matmul_dtype, pick_device, return_freed_memory
from apiq_core.errors import Stopped
from apiq_core.evaluate import evaluate, part_count, try_out
from apiq_core.events import CheckStop, OnEvent, ShouldStop
from apiq_core.identity import identify
from apiq_core.inspect import inspect_model
from apiq_core.meter import Meter
from apiq_core.methods import METHODS
from apiq_core.polish import guess_step_s, polish, step_count
from apiq_core.reports.layer_errors import layer_errors
from apiq_core.reports.model_card import model_card
from apiq_core.reports.report import BlockReport, Report
from apiq_core.reports.report_html import report_html
from apiq_core.resolve import resolve
from apiq_core.resume import earlier_plan, take_over, to_metadata
from apiq_core.skeleton import Skeleton, input_groups
from apiq_core.stream import Stream
from apiq_core.tokenizer import load_tokenizer


def quantize(
    model_dir: Path,
    out_dir: Path,
    config: QuantizeConfig,
    *,
    on_event: OnEvent = lambda event: None,
    should_stop: ShouldStop = lambda: False,
    texts: Mapping[str, Path] | None = None,
    device: str = "auto",
    model_name: str | None = None,
) -> Report:
    """Quantize the checkpoint in `model_dir`; leaves model/, adapter/ and reports in `out_dir`.

    Blocks that an interrupted run of the same identity left in `out_dir` are taken over.

    `texts` names a UTF-8 file for every text source but `builtin`. `should_stop` is asked
    between steps; true raises `Stopped`. `device` is `auto`, `cpu` or `cuda[:n]`.
    Raises `UserError` for input that cannot be quantized, `InfraError` for a full disk.
    """

    def check_stop() -> None:
        if should_stop():
            raise Stopped

    facts = inspect_model(model_dir)
    config = resolve(config, facts)
    target = pick_device(device)
    scored = config.evaluation.samples > 0
    meter = Meter(on_event, target)
    report = Report.begin(config, facts, model_name or model_dir.name, target)
    out_dir.mkdir(parents=True, exist_ok=True)

    with Checkpoint(model_dir) as source:
        with meter.phase("calibrating"):
            windows = draw_windows(load_tokenizer(model_dir), config, texts or {}, check_stop)
            report.describe_texts(windows)
            skeleton = Skeleton(model_dir, target, compute_dtype(target), matmul_dtype(target))
            tokens = torch.cat([windows.train, windows.held_out])
            identity = identify(model_dir, windows, config, skeleton)
            hidden, calls = skeleton.embed(source, tokens)
            stream = Stream.start(hidden, len(windows.train), target)
            del hidden  # the stream has its own on a GPU
            scoring = Skeleton(model_dir, target, torch.float32)  # bf16 moves a small KL
            guessed_s = try_out(scoring, source, windows.evaluation) if scored else {}
            if scored:
                guessed_s["polish"] = guess_step_s(config, facts, guessed_s["evaluate"])

        if config.bits_per_weight is None:
            plan = uniform_plan(config, facts)
        else:
            with meter.phase("planning"):
                text = earlier_plan(out_dir, identity)
                if text is None:
                    seen = stream.x[: len(windows.train)]
                    made = make_plan(skeleton, source, seen, calls, config, facts, check_stop)
                    text = plan_to_text(made)
                identity["plan"], plan = text, plan_from_text(text)
        report.describe_plan(plan, facts)
        artifact = Artifact(out_dir, skeleton, config, plan)
        earlier = take_over(out_dir, identity, on_event)

        with meter.phase("quantizing"):
            meter.expect(
                earlier=[block.seconds for block in earlier],
                quantize=facts.block_count - len(earlier),
                evaluate=facts.block_count if scored else 0,
                score=part_count(windows.evaluation) if scored else 0,
                polish=step_count(config),
                guessed_s=guessed_s,
            )
            for index, module in enumerate(skeleton.blocks):
                check_stop()
                teacher = skeleton.load_block(source, index)
                stream.teach(module, teacher, calls[index])
                is_new = index >= len(earlier)
                if is_new:
                    first_window = stream.load(stream.x[:1])
                    groups = input_groups(module, teacher, first_window, calls[index])
                    block = Block(index, module, teacher, calls[index], groups, stream, plan[index])
                    figures, result = quantize_block(block, config, meter, check_stop)
                    metadata = to_metadata(figures, identity)
                    artifact.write_block(index, teacher, source, result, metadata)
                    del block, result
                else:
                    figures = earlier[index]
                del teacher  # one block is in memory at a time, and in one form
                rest = artifact.read_rest(index, skeleton.dtype)
                written = student_weights(rest, artifact.read_block(index))
                figures.error = stream.advance(module, written, calls[index])
                del rest, written
                report.blocks.append(figures)
                return_freed_memory()
                if is_new:
                    meter.block_quantized(index, figures.error, figures.warning)
                else:
                    meter.block_retraced()

        stream.keep_teacher()
        if config.training.polish_epochs:
            with meter.phase("polishing"):
                report.polish = polish(
                    skeleton, source, artifact, tokens, stream, config, meter, check_stop
                )

        if scored:
            with meter.phase("evaluating"):
                scores = evaluate(scoring, source, artifact, windows.evaluation, meter, check_stop)
                report.add_scores(scores)

        with meter.phase("packaging"):
            artifact.finish(model_dir, source)

    report.close(meter, out_dir, artifact.adapter_bytes)
    write_text(out_dir / "report.json", report.model_dump_json(indent=1) + "\n")
    write_text(out_dir / "report.html", report_html(report.model_dump(mode="json")))
    write_text(out_dir / "README.md", model_card(report.model_dump(mode="json")))
    return report


def quantize_block(
    block: Block, config: QuantizeConfig, meter: Meter, check_stop: CheckStop
) -> tuple[BlockReport, BlockResult]:
    """Quantize one block by the method of the config, and say how that went."""
    result = METHODS[config.method](block, config, check_stop)
    figures = BlockReport.of(block, layer_errors(block, result), result)
    figures.seconds = meter.lap_s()
    figures.held_out_seconds = [meter.lap_s(at_s) for at_s in result.held_out_at_s]
    return figures, result
