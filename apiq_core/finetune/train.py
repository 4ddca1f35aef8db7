"""The optimisation: AdamW, scored on held-out rows, resumable at every step.

What decides - losses, gradients, whether to stop - is summed over `processes`, so that all of
them do the same; only the main one writes.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apiq_core.errors import InfraError, Stopped, UserError
from apiq_core.events import Event
from apiq_core.finetune import checkpoint, processes
from apiq_core.finetune.checkpoint import Point, State
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.loss import summed_loss
from apiq_core.finetune.memory import is_out_of_memory
from apiq_core.finetune.parameters import parameter_groups, trained_parameters
from apiq_core.finetune.run import Run
from apiq_core.finetune.scoring import mean_loss
from apiq_core.gradient.optimise import warmup_cosine

ROLLBACKS = 2  # how often a run whose loss was not finite goes back and tries at half the rate


class NotFinite(Exception):
    """A loss or a gradient is not a number; the message says which."""


def train(run: Run) -> State:
    """Train, and leave the model with the parameters that scored best on held-out rows.

    Raises `Stopped` behind a checkpoint when asked to, `UserError`: `illegal_base` where the loss
    is not finite before the first step, `diverged` where it stays so at a quarter of the learning
    rate; `InfraError(out_of_memory)`.
    """
    config, parameters = run.config, trained_parameters(run.model)
    optimizer = torch.optim.AdamW(
        parameter_groups(parameters, config), weight_decay=config.weight_decay, fused=True
    )
    total = run.step_count()
    every, save_every = run.evaluate_every(), run.checkpoint_every()
    patience = config.patience or math.inf

    def save() -> None:
        if processes.is_main():
            checkpoint.save(run.checkpoint_file, state, parameters, optimizer, best, run.identity)
        processes.wait()  # who goes back or goes on reads what the main one wrote
        run.on_event(Event("checkpoint", {"step": state.step}))

    found = _take_over(run, parameters, optimizer)
    if found is None:
        state = State(micro_batch_size=run.micro_batch_size())
        best: dict[str, Tensor] = {}
    else:
        state, best = found
        run.on_event(Event("resumed", {"step": state.step}))
    while True:
        is_due = state.step == total or state.step % every == 0
        try:
            if is_due and _last_scored(state) != state.step:
                best = _score(run, state, parameters, best)
            is_last = state.step == total or state.scores_since_best >= patience
            if is_last or state.step == 0:
                save()
            if is_last:
                if state.step < total:
                    _tell_progress(run, state, state.step)
                break
            gradients = _finite_gradients(run, state, parameters, optimizer)
            if state.step > 0 and state.step % save_every == 0:
                save()  # only now: to what has no finite gradients there is no going back
            _update(run, state, optimizer, gradients)
        except Stopped:
            optimizer.zero_grad(set_to_none=True)  # of a step that may not be whole
            if state.step == 0 or _has_finite_loss(run, state):
                save()
            raise
        except NotFinite as error:
            state, best = _roll_back(run, state, parameters, optimizer, str(error))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(best[name])
    return state


def lr_at(step: int, total: int, config: FinetuneConfig) -> float:
    """The learning rate of a step: a linear warmup, then a cosine down to zero."""
    return config.lr * warmup_cosine(total, config.warmup_fraction)(step)


@dataclass(frozen=True)
class Gradients:
    """Of a step; they themselves are with the parameters."""

    loss: float  # summed
    tokens: int  # that carry it
    seconds: float


def _finite_gradients(
    run: Run,
    state: State,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Gradients:
    """The clipped gradients of the next step. Raises `NotFinite`."""
    start = time.monotonic()
    loss, tokens = _gradients_in_memory(run, state, optimizer)
    norm = nn.utils.clip_grad_norm_(parameters.values(), run.config.max_norm)
    if not math.isfinite(loss) or not torch.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise NotFinite(f"the loss of step {state.step + 1}")
    return Gradients(loss, tokens, time.monotonic() - start)


def _update(run: Run, state: State, optimizer: torch.optim.Optimizer, gradients: Gradients) -> None:
    start, total = time.monotonic(), run.step_count()
    for group in optimizer.param_groups:
        group["lr"] = state.lr_factor * lr_at(state.step, total, run.config) * group["relative_lr"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.train_loss += gradients.loss
    state.train_tokens += gradients.tokens
    state.train_s += gradients.seconds + time.monotonic() - start
    _tell_progress(run, state, total)


def _tell_progress(run: Run, state: State, total: int) -> None:
    """`total` is the last step as far as is known: patience may end it sooner."""
    progress = {
        "done": state.step,
        "total": total,
        "unit": "step",
        "percent": round(100 * state.step / total, 1),
        "eta_seconds": round(_left_s(run, state, total), 1),
    }
    run.on_event(Event("progress", progress))


def _left_s(run: Run, state: State, total: int) -> float:
    """Seconds of the steps and the scores to come, of which the last is of what is stored."""
    every = run.evaluate_every()
    step_s = state.train_s / max(1, state.step - (_last_scored(state) or 0))
    scores = math.ceil(total / every) - math.ceil(state.step / every) + 2
    return step_s * (total - state.step) + state.score_s * scores


def _gradients_in_memory(
    run: Run, state: State, optimizer: torch.optim.Optimizer
) -> tuple[float, int]:
    """As `_gradients`; once more with half as many rows at a time where memory runs out.

    Not with several processes: the others wait for the sums of the first try.
    """
    while True:
        try:
            return _gradients(run, run.batch_of(state.step), state.micro_batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            optimizer.zero_grad(set_to_none=True)
            _halve_micro_batch(run, state, error)


def _gradients(run: Run, batch: Sequence[int], micro_batch_size: int) -> tuple[float, int]:
    """Add the gradients of a batch's mean loss; the summed loss, and of how many tokens."""
    run.model.train()
    count = sum(sum(run.examples[i].learned[1:]) for i in batch)
    total, firsts = 0.0, range(0, len(batch), micro_batch_size)
    for at in range(0, len(firsts), processes.count()):
        run.check_stop()  # all ask equally often, though the last may have no rows left
        for first in processes.share(firsts[at : at + processes.count()]):
            micro = batch[first : first + micro_batch_size]
            loss, _ = summed_loss(run.model, *run.padded(micro))
            (loss / count).backward()
            total += float(loss.detach())
    processes.sum_gradients(run.model)
    return processes.summed(total), count


@torch.no_grad()
def _has_finite_loss(run: Run, state: State) -> bool:
    """Of the first rows of the next step, or of the last one where none is to come."""
    run.model.eval()
    batch = run.batch_of(min(state.step, run.step_count() - 1))
    loss, _ = summed_loss(run.model, *run.padded(batch[: state.micro_batch_size]))
    return not processes.any_of(not math.isfinite(loss))


def _score(
    run: Run, state: State, parameters: Mapping[str, nn.Parameter], best: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Add a point; the best parameters, which may be the present ones.

    Raises `NotFinite`, and `UserError(illegal_base)` where it is not even before the first step.
    """
    start = time.monotonic()
    loss = mean_loss(run, run.held_out)
    state.score_s = time.monotonic() - start
    if not math.isfinite(loss):
        if state.step > 0:
            raise NotFinite(f"the held-out loss behind step {state.step}")
        raise UserError(
            "illegal_base",
            f"the base's loss on held-out rows is {loss}, before the first step; legal: a base "
            "whose loss is finite",
            param="base",
            value=str(loss),  # JSON has no number for it
        )
    point = Point(
        step=state.step,
        train_loss=state.train_loss / state.train_tokens if state.train_tokens else None,
        validation_loss=loss,
        lr=state.lr_factor * lr_at(max(0, state.step - 1), run.step_count(), run.config),
        tokens_per_s=state.train_tokens / state.train_s if state.train_s else None,
        peak_memory_bytes=run.peak_memory_bytes(),
    )
    is_best = not state.points or loss < state.best_loss
    state.points.append(point)
    state.train_loss, state.train_tokens, state.train_s = 0.0, 0, 0.0
    run.on_event(Event("metrics", point.model_dump()))
    if not is_best:
        return best
    state.best_step = state.step
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _take_over(
    run: Run, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[State, dict[str, Tensor]] | None:
    """What an earlier run left, if it is this run's; a warning says why not."""
    try:
        return checkpoint.load(run.checkpoint_file, parameters, optimizer, run.identity)
    except checkpoint.Unusable as error:
        message = f"the training checkpoint of an earlier run {error}; training begins anew"
        data = {"code": "checkpoint_discarded", "message": message}
        run.on_event(Event("warning", data | {"block": 0, "differs": error.differs}))
        return None


def _roll_back(
    run: Run,
    state: State,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    what: str,
) -> tuple[State, dict[str, Tensor]]:
    """To the last checkpoint, at half the learning rate: `what` is not finite."""
    factor = state.lr_factor / 2
    if factor < 0.5**ROLLBACKS:
        raise UserError(
            "diverged",
            f"{what} is not finite, nor was it at twice and four times the learning rate of "
            f"{run.config.lr * state.lr_factor:.3g}; legal: a smaller lr",
            param="lr",
            value=run.config.lr,
        )
    try:
        found = checkpoint.load(run.checkpoint_file, parameters, optimizer, run.identity)
    except checkpoint.Unusable as error:
        raise InfraError("checkpoint_lost", f"the last checkpoint {error}") from None
    if found is None:
        raise InfraError("checkpoint_lost", "the last checkpoint is gone from the disk")
    earlier, best = found
    message = f"{what} was not finite; back to step {earlier.step}, at half the learning rate"
    run.on_event(Event("warning", {"code": "diverged", "message": message}))
    earlier.lr_factor = factor
    return earlier, best


def _halve_micro_batch(run: Run, state: State, error: RuntimeError) -> None:
    size, count = state.micro_batch_size, processes.count()
    if count > 1:
        message = (
            f"out of memory at {size} rows at a time in one of {count} processes, which cannot "
            "halve them alone; try a smaller micro_batch_size"
        )
        raise InfraError("out_of_memory", message) from error
    if size == 1 or size < run.micro_batch_size():
        raise InfraError("out_of_memory", f"out of memory at {size} rows at a time") from error
    state.micro_batch_size = size // 2
    message = f"out of memory at {size} rows at a time; on with {size // 2}"
    run.on_event(Event("warning", {"code": "out_of_memory", "message": message}))


def _last_scored(state: State) -> int | None:
    return state.points[-1].step if state.points else None
