"""Round to nearest, no adapter: the baseline that everything has to beat."""

from apiq_core.adapters.lora import no_adapter
from apiq_core.block import Block, BlockResult, QuantizedLayer
from apiq_core.config import QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.quantizer import round_to_nearest


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    layers = {}
    for name, weight in block.linear_weights.items():
        spec = block.specs[name]
        rounded = round_to_nearest(weight, spec.bits, spec.group_size)
        layers[name] = QuantizedLayer(rounded, no_adapter(weight))
    return BlockResult(layers)
