"""How far each linear layer's output is from the full-precision network's, on held-out text."""

from dataclasses import dataclass

import torch
from torch import Tensor

from apiq_core.block import Block, BlockResult, Layers, student_weights
from apiq_core.skeleton import Weights, layer_inputs


@dataclass
class LayerError:
    output: float  # ||X W^T - Xq (Q + B A)^T||^2 / ||X W^T||^2
    weight: float  # ||W - (Q + B A)||^2 / ||W||^2


@torch.no_grad()
def layer_errors(block: Block, result: BlockResult) -> dict[str, LayerError]:
    """The errors of each layer of a block, by name; of a rescaled block, against its equivalent."""
    layers, teacher = result.layers, result.rescaled or block.teacher
    student = student_weights(teacher, layers)
    wrong = dict.fromkeys(layers, 0.0)
    right = dict.fromkeys(layers, 0.0)
    for batch in block.stream.batches("held_out"):
        wanted = _outputs(block, teacher, block.stream.x[batch], layers)
        given = _outputs(block, student, block.stream.xq[batch], layers)
        for name, output in wanted.items():
            wrong[name] += float((output - given[name]).square().sum())
            right[name] += float(output.square().sum())
    return {
        name: LayerError(
            output=wrong[name] / max(right[name], 1e-30),
            weight=_relative(teacher[f"{name}.weight"], student[f"{name}.weight"]),
        )
        for name in layers
    }


def _outputs(block: Block, weights: Weights, hidden: Tensor, layers: Layers) -> dict[str, Tensor]:
    inputs = layer_inputs(block.module, weights, block.stream.load(hidden), block.call)
    return {name: inputs[name].float() @ weights[f"{name}.weight"].float().T for name in layers}


def _relative(wanted: Tensor, given: Tensor) -> float:
    wanted, given = wanted.float(), given.float()
    return float((wanted - given).square().sum() / wanted.square().sum().clamp(min=1e-30))
