"""Moving a scale per channel from what produces a layer's input into the layer, or back.

Dividing the producer by s and multiplying the layer's input channels with s changes nothing in full
precision, but how the layer rounds. A producer is the norm whose output the layer receives, or the
linear layer whose output reaches it channel by channel.
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.func import functional_call

from apiq_core.block import Block
from apiq_core.skeleton import layer_inputs

# between the two there are only products with other channels' tensors and sums over tokens; with
# grouped queries v has fewer channels than o, and is no producer
LINEAR_PRODUCERS = {"self_attn.o_proj": "self_attn.v_proj", "mlp.down_proj": "mlp.up_proj"}
NORM_DTYPE = torch.bfloat16  # what a rescaled norm is rounded to: every reader's dtype holds it


def producers(block: Block) -> dict[str, str]:
    """Norm or linear layer that produces the input of a linear layer, where there is one."""
    outputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in block.module.named_modules():
            if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() == 1:

                def keep(_: nn.Module, args: object, output: Tensor, name: str = name) -> None:
                    outputs[name] = output

                hooks.callback(module.register_forward_hook(keep).remove)
        window = block.stream.load(block.stream.xq[:1])
        inputs = layer_inputs(block.module, block.teacher, window, block.call)
    found = {
        layer: norm
        for layer, tensor in inputs.items()
        for norm, output in outputs.items()
        if output is tensor
    }
    for layer, producer in LINEAR_PRODUCERS.items():
        if len(block.teacher[f"{producer}.weight"]) == block.teacher[f"{layer}.weight"].shape[1]:
            found[layer] = producer
    return found


def divide(
    block: Block, weights: dict[str, Tensor], producer: str, scales: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The producer's tensors in `weights` (of the block) divided by `scales` (I), by their names.

    Also what its output was divided by: of a norm, by what rounding left of the scales.
    """
    name = f"{producer}.weight"
    weight = weights[name].float()
    if weight.dim() == 2:
        changed = {name: weight / scales.unsqueeze(1)}
        if (bias := weights.get(f"{producer}.bias")) is not None:
            changed[f"{producer}.bias"] = bias.float() / scales
    else:
        offset = _norm_offset(block, producer)
        gain = weight + offset
        rounded = (gain / scales - offset).to(NORM_DTYPE).float()
        usable = (gain != 0) & (rounded + offset != 0)
        scales = torch.where(usable, gain / (rounded + offset), torch.ones_like(gain))
        changed = {name: torch.where(usable, rounded, weight)}
    return {key: value.to(weights[key].dtype) for key, value in changed.items()}, scales


def _norm_offset(block: Block, name: str) -> float:
    """1 for a norm that multiplies with 1 + weight, as Gemma's, else 0."""
    norm = block.module.get_submodule(name)
    zeros = torch.zeros_like(block.teacher[f"{name}.weight"])
    gain: Tensor = functional_call(norm, {"weight": zeros}, (torch.ones_like(zeros),))
    return float(gain.float().mean().round())
