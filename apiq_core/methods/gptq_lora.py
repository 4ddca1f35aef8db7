"""GPTQ-LoRA, the baseline of the ApiQ paper: GPTQ's weights and an adapter that starts at zero."""

from apiq_core.block import Block, BlockResult, QuantizedLayer
from apiq_core.config import QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.fresh_adapter import fresh_adapters
from apiq_core.methods import gptq


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    adapters = fresh_adapters(block, config.seed)
    layers = gptq.quantize_block(block, config, check_stop).layers
    return BlockResult(
        {name: QuantizedLayer(layer.weight, adapters[name]) for name, layer in layers.items()}
    )
