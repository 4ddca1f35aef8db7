"""GPTQ as published (Frantar et al., arXiv 2210.17323), the baseline: no adapter, no clipping.

The target is W and H is that of the layer's own input, behind what is quantized already; ApiQ's
closed form rounds in the same way but moves the target to what X asks for.
"""

from apiq_core.adapters.lora import no_adapter
from apiq_core.block import Block, BlockResult, Layers, QuantizedLayer, student_weights
from apiq_core.closed_form.gptq import gptq, inverse_factor
from apiq_core.closed_form.gram import own_gram
from apiq_core.config import QuantizeConfig
from apiq_core.events import CheckStop

DAMPING = 0.01  # of the published code


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    layers: Layers = {}
    weights = block.linear_weights
    for names in block.input_groups:
        check_stop()
        student = student_weights(block.teacher, layers)
        factor = inverse_factor(own_gram(block, student, names[0], DAMPING))
        for name in names:
            spec, weight = block.specs[name], weights[name]
            rounded = gptq(weight, factor, spec.bits, spec.group_size, clip=False)
            layers[name] = QuantizedLayer(rounded, no_adapter(weight))
    return BlockResult(layers)
