"""AWQ (Lin et al., arXiv 2306.00978), the baseline: scale what matters, clip, round to nearest.

Input channels of large activations are scaled up before rounding by s = |x|^a, with the a in
0 .. 1 that keeps the output best, and what produces them is scaled down. Then the clipping of each
group is searched. Layers without a producer (`apiq_core.rescaling`) are clipped only. Outputs are
compared a layer at a time, through H = Xq^T Xq of the full-precision block on its quantized input;
the authors' code compares those of attention and MLP as a whole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apiq_core.adapters.lora import no_adapter
from apiq_core.block import Block, BlockResult, Layers, QuantizedLayer
from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.quantizer import round_to_nearest, to_groups
from apiq_core.rescaling import divide, producers
from apiq_core.skeleton import layer_inputs

SCALE_STEPS = 20  # of a; the first is 0, which changes nothing
CLIP_RATIOS = tuple(1 - step / 20 for step in range(10))
# attention multiplies their outputs with each other, which a layer's own error does not see
NOT_CLIPPED = ("self_attn.q_proj", "self_attn.k_proj")


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    weights = dict(block.teacher)
    inputs = input_statistics(block)
    producer_of = producers(block)
    for names in block.input_groups:
        check_stop()
        if (producer := producer_of.get(names[0])) is not None:
            rescale(block, weights, names, producer, inputs[names[0]])
    layers: Layers = {}
    for names in block.input_groups:
        for name in names:
            check_stop()
            spec, weight = block.specs[name], weights[f"{name}.weight"].float()
            if name not in NOT_CLIPPED:
                weight = clip(weight, inputs[names[0]].h, spec)
            rounded = round_to_nearest(weight, spec.bits, spec.group_size)
            layers[name] = QuantizedLayer(rounded, no_adapter(weight))
    return BlockResult(layers, rescaled=weights)


@dataclass
class InputStatistics:
    h: Tensor  # (I, I)
    magnitude: Tensor  # (I), mean absolute value


@torch.no_grad()
def input_statistics(block: Block) -> dict[str, InputStatistics]:
    """Of each group's input on the training windows, means over tokens, by its first layer."""
    found: dict[str, InputStatistics] = {}
    tokens = 0
    for batch in block.stream.batches("train"):
        hidden = block.stream.load(block.stream.xq[batch])
        inputs = layer_inputs(block.module, block.teacher, hidden, block.call)
        for name, *_ in block.input_groups:
            x = inputs[name].flatten(0, -2).float()
            if name not in found:
                zeros = x.new_zeros(x.shape[1])
                found[name] = InputStatistics(torch.outer(zeros, zeros), zeros)
            found[name].h.addmm_(x.T, x)
            found[name].magnitude += x.abs().sum(0)
        tokens += hidden.shape[0] * hidden.shape[1]
    return {name: InputStatistics(s.h / tokens, s.magnitude / tokens) for name, s in found.items()}


def rescale(
    block: Block,
    weights: dict[str, Tensor],
    names: list[str],
    producer: str,
    inputs: InputStatistics,
) -> None:
    """Change, in place, the `weights` of a producer and of the layers `names`, which receive its
    output, and what is known of that, `inputs`."""
    layers = {name: weights[f"{name}.weight"].float() for name in names}
    least, best_scales = torch.inf, torch.ones_like(inputs.magnitude)
    for wanted in candidate_scales(inputs.magnitude):
        _, scales = divide(block, weights, producer, wanted)
        loss = sum(
            float(output_loss(weight, scales, inputs.h, block.specs[name]))
            for name, weight in layers.items()
        )
        if loss < least:
            least, best_scales = loss, wanted
    changed, scales = divide(block, weights, producer, best_scales)
    weights |= changed
    inputs.h /= torch.outer(scales, scales)
    for name, weight in layers.items():
        key = f"{name}.weight"
        weights[key] = (weight * scales).to(weights[key].dtype)


def candidate_scales(magnitude: Tensor) -> list[Tensor]:
    """|x|^a for each a of the grid, the smallest and largest as far from 1; (I) each."""
    magnitude = magnitude.clamp(min=1e-4)
    powers = [magnitude ** (step / SCALE_STEPS) for step in range(SCALE_STEPS)]
    return [power / (power.max() * power.min()).sqrt() for power in powers]


def output_loss(weight: Tensor, scales: Tensor, h: Tensor, spec: LayerSpec) -> Tensor:
    """||X (W - Q(W s) / s)^T||^2 for `weight` (O, I) and `scales` (I)."""
    rounded = round_to_nearest(weight * scales, spec.bits, spec.group_size).dequantize() / scales
    difference = weight - rounded
    return ((difference @ h) * difference).sum()


def clip(weight: Tensor, h: Tensor, spec: LayerSpec) -> Tensor:
    """`weight` (O, I) with each group clamped to the fraction of its largest absolute value at
    which its own share of the output is kept best."""
    groups = to_groups(weight, spec.group_size)  # (O, N, G)
    _, count, size = groups.shape
    own = h.view(count, size, count, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (N, G, G)
    largest = groups.abs().amax(-1, keepdim=True)
    best, least = groups, torch.full_like(largest, torch.inf)
    for ratio in CLIP_RATIOS:
        clamped = groups.clamp(-ratio * largest, ratio * largest)
        rounded = round_to_nearest(clamped.flatten(1), spec.bits, size).dequantize()
        difference = (to_groups(rounded, size) - groups).transpose(0, 1)  # (N, O, G)
        error = ((difference @ own) * difference).sum(-1).T.unsqueeze(2)  # (O, N, 1)
        best = torch.where(error < least, clamped, best)
        least = torch.minimum(error, least)
    return best.flatten(1)
