"""In which order examples are trained on: a function of the seed, so that a resumed run goes on."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from apiq_core.finetune.data.examples import Example

GROUPED_BATCHES = 32  # so many batches are sorted by length together
LENGTH_STEP = 16  # of few lengths there are few kernels, and memory that is freed fits again
IGNORED = -100  # the label of a token without loss, as PyTorch has it
Item = TypeVar("Item")


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and indices to hold out, each at least one. Raises `ValueError`.

    What is held out is in a random order: the first of it are a sample of the file.
    """
    if len(examples) < 2:
        raise ValueError("one example cannot be split")
    order = random_order(len(examples), seed)
    held_out = min(max(1, round(fraction * len(examples))), len(examples) - 1)
    return sorted(order[held_out:]), order[:held_out]


def random_order(count: int, seed: int) -> list[int]:
    """The numbers below `count`."""
    return torch.randperm(count, generator=_generator(seed, 0)).tolist()


def epoch_batches(
    examples: Sequence[Example], members: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of one epoch, of similar length each: padding is computed for nothing.

    Every member is in one of them; the last to be made may be smaller.
    """
    generator = _generator(seed, epoch + 1)
    shuffled = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
    size = GROUPED_BATCHES * batch_size
    batches: list[list[int]] = []
    for first in range(0, len(shuffled), size):
        group = sorted(shuffled[first : first + size], key=lambda i: (-len(examples[i]), i))
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def token_batches(
    items: Iterable[Item], length: Callable[[Item], int], budget: int
) -> list[list[Item]]:
    """`items`, the longest first, in batches of at most `budget` tokens, padding included.

    One that is longer is alone.
    """
    ordered = sorted(items, key=length, reverse=True)
    batches = []
    while ordered:
        size = max(1, budget // length(ordered[0]))
        batches.append(ordered[:size])
        ordered = ordered[size:]
    return batches


def pad(batch: Sequence[Example], max_length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and labels, each (rows, length), padded on the right.

    The length is a multiple of `LENGTH_STEP`, or `max_length`: no row is longer than that, and
    the model's context may be no longer either.
    The label at a position is the token there, or `IGNORED`. What is padded needs no mask: it lies
    behind all that attends to it.
    """
    length = min(LENGTH_STEP * math.ceil(max(map(len, batch)) / LENGTH_STEP), max_length)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), IGNORED)
    for row, example in enumerate(batch):
        ids = torch.tensor(example.tokens)
        tokens[row, : len(ids)] = ids
        labels[row, : len(ids)] = torch.where(torch.tensor(example.learned), ids, IGNORED)
    return tokens.to(device), labels.to(device)


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
