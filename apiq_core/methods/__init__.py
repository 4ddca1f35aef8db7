"""The methods by name: each turns one block into what is stored of it."""

from collections.abc import Callable

from apiq_core.block import Block, BlockResult
from apiq_core.config import Method, QuantizeConfig
from apiq_core.methods import apiq_bw, apiq_lw, rtn

QuantizeBlock = Callable[[Block, QuantizeConfig, Callable[[], None]], BlockResult]

METHODS: dict[Method, QuantizeBlock] = {
    "apiq-bw": apiq_bw.quantize_block,
    "apiq-lw": apiq_lw.quantize_block,
    "rtn": rtn.quantize_block,
}
