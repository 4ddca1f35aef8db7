"""The methods by name: each turns one block into what is stored of it."""

from collections.abc import Callable

from apiq_core.block import Block, BlockResult
from apiq_core.config import Method, QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.methods import (
    apiq_bw,
    apiq_lw,
    awq,
    gptq,
    gptq_lora,
    loftq,
    omniquant,
    qlora,
    rtn,
)

QuantizeBlock = Callable[[Block, QuantizeConfig, CheckStop], BlockResult]

METHODS: dict[Method, QuantizeBlock] = {
    "apiq-bw": apiq_bw.quantize_block,
    "apiq-lw": apiq_lw.quantize_block,
    "rtn": rtn.quantize_block,
    "gptq": gptq.quantize_block,
    "awq": awq.quantize_block,
    "omniquant": omniquant.quantize_block,
    "loftq": loftq.quantize_block,
    "qlora": qlora.quantize_block,
    "gptq-lora": gptq_lora.quantize_block,
}
