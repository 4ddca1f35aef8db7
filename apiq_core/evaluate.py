"""Perplexity and KL of the packed model, streamed block by block.

Four networks run side by side on the same tokens: full precision, plain RTN at the same bits and
group size, the quantized weights alone, and with their adapter - the last two read back from the
files that were written.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from apiq_core.adapters.lora import no_adapter
from apiq_core.artifact import Artifact, without_adapter
from apiq_core.block import QuantizedLayer, student_weights
from apiq_core.checkpoint import Checkpoint
from apiq_core.events import CheckStop
from apiq_core.meter import Kind, Meter
from apiq_core.quantizer import round_to_nearest
from apiq_core.skeleton import LOGIT_TOKENS, Head, Skeleton, Weights, run_block
from apiq_core.stream import BATCH_TOKENS

FULL_PRECISION = "full_precision"
NETWORKS = (FULL_PRECISION, "rtn", "quantized", "quantized_with_adapter")


@dataclass
class Scores:
    """By network; KL is the mean of KL(full precision || network) per token, in nats."""

    perplexity: dict[str, float]
    kl: dict[str, float]


def part_count(tokens: Tensor) -> int:
    """In how many parts `tokens` (windows, length) are scored."""
    return -(-tokens[:, 1:].numel() // LOGIT_TOKENS)


@torch.no_grad()
def evaluate(
    skeleton: Skeleton,
    source: Checkpoint,
    artifact: Artifact,
    tokens: Tensor,
    meter: Meter,
    check_stop: CheckStop,
) -> Scores:
    """Score `tokens` (windows, length)."""
    hidden, calls = skeleton.embed(source, tokens)
    streams = {network: hidden.clone() for network in NETWORKS}
    for index, module in enumerate(skeleton.blocks):
        check_stop()
        for network, weights_of in _makers(skeleton, source, artifact, index).items():
            _move_on(streams[network], module, weights_of(), calls[index], skeleton.device)
        meter.block_evaluated()
    return _score(skeleton, source, streams, tokens, meter, check_stop)


def _makers(
    skeleton: Skeleton, source: Checkpoint, artifact: Artifact, index: int
) -> dict[str, Callable[[], Weights]]:
    """What makes each network's weights of a block, which are dense: one is there at a time."""
    layers, rest = artifact.read_block(index), artifact.read_rest(index, skeleton.dtype)

    def teacher() -> Weights:
        return skeleton.load_block(source, index)

    def rtn() -> Weights:
        weights = teacher()
        rounded = {}
        for name, spec in artifact.plan[index].items():
            weight = weights[f"{name}.weight"].float()
            q = round_to_nearest(weight, spec.bits, spec.group_size)
            rounded[name] = QuantizedLayer(q, no_adapter(weight))
        return student_weights(weights, rounded)

    return {
        FULL_PRECISION: teacher,
        "rtn": rtn,
        "quantized": lambda: student_weights(rest, without_adapter(layers)),
        "quantized_with_adapter": lambda: student_weights(rest, layers),
    }


def _move_on(
    states: Tensor, module: nn.Module, weights: Weights, call: dict[str, Any], device: torch.device
) -> None:
    """Put `states` (windows, length, width) through a block, in place."""
    for batch in states.split(max(1, BATCH_TOKENS // states.shape[1])):
        batch.copy_(run_block(module, weights, batch.to(device), call))


def _score(
    skeleton: Skeleton,
    source: Checkpoint,
    streams: dict[str, Tensor],
    tokens: Tensor,
    meter: Meter,
    check_stop: CheckStop,
) -> Scores:
    head = skeleton.head(source)
    negative_log_likelihood = dict.fromkeys(NETWORKS, 0.0)
    kl = dict.fromkeys(NETWORKS, 0.0)
    targets = tokens[:, 1:].flatten()  # (T)
    states = {network: stream[:, :-1].flatten(0, 1) for network, stream in streams.items()}
    for first in range(0, len(targets), LOGIT_TOKENS):
        check_stop()
        part = slice(first, first + LOGIT_TOKENS)
        labels = targets[part].to(skeleton.device)
        reference: Tensor | None = None
        for network in NETWORKS:
            log_p, losses, divergence = _compare(head, states[network][part], labels, reference)
            reference = log_p if reference is None else reference
            negative_log_likelihood[network] += losses
            kl[network] += divergence
        meter.part_scored()
    return Scores(
        perplexity={k: _exp(v / len(targets)) for k, v in negative_log_likelihood.items()},
        kl={k: v / len(targets) for k, v in kl.items() if k != FULL_PRECISION},
    )


def _compare(
    head: Head, states: Tensor, labels: Tensor, reference: Tensor | None
) -> tuple[Tensor, float, float]:
    """Log-probabilities, summed loss and summed KL to `reference` (itself if None)."""
    logits = head.logits(states.to(labels.device))
    log_p = log_softmax(logits, dim=-1)
    losses = cross_entropy(logits, labels, reduction="sum")
    reference = log_p if reference is None else reference
    divergence = kl_div(log_p, reference, reduction="sum", log_target=True)
    return log_p, float(losses), float(divergence)


@torch.no_grad()
def try_out(skeleton: Skeleton, source: Checkpoint, tokens: Tensor) -> dict[Kind, float]:
    """The seconds that a block and a part of the text will take in `evaluate`.

    One network's share is run: what the head and its softmax cost beside a block differs by an
    order of magnitude between models, and no block that is quantized tells it.
    """
    batch = tokens[: max(1, BATCH_TOKENS // tokens.shape[1])]
    hidden, calls = skeleton.embed(source, batch)
    start = time.monotonic()
    teacher = skeleton.load_block(source, 0)
    loaded = time.monotonic()
    run_block(skeleton.blocks[0], teacher, hidden.to(skeleton.device), calls[0]).cpu()
    ran = time.monotonic()
    head = skeleton.head(source)
    labels = batch.flatten()[:LOGIT_TOKENS].to(skeleton.device)
    headed = time.monotonic()
    _compare(head, hidden.flatten(0, 1)[:LOGIT_TOKENS], labels, None)
    compared = time.monotonic()
    networks = len(NETWORKS)
    return {
        "evaluate": loaded - start + (ran - loaded) * networks * len(tokens) / len(batch),
        "score": (compared - headed) * networks,
    }


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # exp(710) overflows a double
