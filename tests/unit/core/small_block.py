"""One block of a tiny model at work, on inputs that are correlated and differ between networks."""

from pathlib import Path
from typing import Any

import torch

from apiq_core.block import Block
from apiq_core.checkpoint import Checkpoint
from apiq_core.config import LayerSpec
from apiq_core.skeleton import Skeleton, input_groups
from apiq_core.stream import Stream
from tests.tiny_models import make_tiny


def small_block(
    directory: Path,
    architecture: str = "llama",
    *,
    bits: int = 2,
    rank: int = 0,
    train: int = 12,
    held_out: int = 4,
    length: int = 32,
    **overrides: Any,
) -> Block:
    """Block 0, in groups of 32, with norms that are not all alike. `overrides` are the model's."""
    model_dir = make_tiny(directory / "tiny", architecture, layers=1, **overrides)
    device = torch.device("cpu")
    skeleton = Skeleton(model_dir, device, torch.float32)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 512, (train + held_out, length), generator=generator)
    with Checkpoint(model_dir) as checkpoint:
        hidden, calls = skeleton.embed(checkpoint, tokens)
        teacher = skeleton.load_block(checkpoint, 0)
    for name, tensor in teacher.items():
        if tensor.dim() == 1:
            noise = torch.rand(tensor.shape, generator=generator)
            teacher[name] = (tensor + noise).bfloat16().float()
    width = hidden.shape[-1]
    mix = torch.randn(width, width, generator=generator) / width**0.5
    hidden = (hidden @ mix) * (1 + 4 * torch.rand(width, generator=generator))
    stream = Stream.start(hidden, train, device)
    noise = torch.randn(hidden.shape, generator=generator)
    stream.xq += 0.1 * hidden.std() * noise
    module = skeleton.blocks[0]
    stream.teach(module, teacher, calls[0])
    groups = input_groups(module, teacher, stream.x[:1], calls[0])
    specs = dict.fromkeys(skeleton.linears, LayerSpec(bits, 32, rank))
    return Block(0, module, teacher, calls[0], groups, stream, specs)
