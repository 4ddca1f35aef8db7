"""QLoRA (Dettmers et al., arXiv 2305.14314), the baseline: a normal float, the adapter at zero."""

from apiq_core.block import Block, BlockResult, QuantizedLayer
from apiq_core.config import QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.fresh_adapter import fresh_adapters
from apiq_core.normal_float import round_to_normal_float
from apiq_core.stored_weight import DenseWeight


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    layers = {}
    adapters = fresh_adapters(block, config.seed)
    for name, weight in block.linear_weights.items():
        spec = block.specs[name]
        rounded = round_to_normal_float(weight, spec.bits, spec.group_size)
        layers[name] = QuantizedLayer(DenseWeight(rounded), adapters[name])
    return BlockResult(layers)
