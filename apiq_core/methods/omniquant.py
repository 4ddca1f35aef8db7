"""OmniQuant's learnable weight clipping (Shao et al., arXiv 2308.13137): ApiQ-bw without adapter.

Clipping logits per group are trained to keep the block's output, at the learning rate of the
paper's section 4.1. Its equivalent transformations are for quantized activations, and are left out
as in its own weight-only runs on Llama.
"""

from apiq_core.block import Block, BlockResult
from apiq_core.config import QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.gradient.clipping_student import ClippingStudent
from apiq_core.gradient.optimise import train_block
from apiq_core.methods.apiq_bw import PAPER


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    student, seed = ClippingStudent(block), config.seed + block.index
    return train_block(block, student, config.training, PAPER, seed=seed, check_stop=check_stop)
