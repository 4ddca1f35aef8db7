"""What the memory of a run would be on a larger model: computed from shapes, tied to this run.

A sum of what training holds: weights as they are kept, the adapter with gradient and AdamW's
moments, activations, and the one dense weight that exists at a time. What this run held beyond
its own sum (the runtime, the allocator) is taken to be the same for every model.
"""

from dataclasses import dataclass
from typing import Self

from transformers import PretrainedConfig

from apiq_core.device import compute_dtype
from apiq_core.finetune.run import Run
from apiq_core.skeleton import find_blocks

FP32 = 4
# parameter, gradient, two moments, and the best state so far
COPIES_OF_TRAINED = 5
# of one block, tokens each: inputs of seven products and of their adapters, norms, attention
SAVED_HIDDEN, SAVED_INTERMEDIATE = 12, 5
# of one layer at a time: its integers unpacked, and Q
COPIES_OF_DENSE = 2


@dataclass(frozen=True)
class Shape:
    """A decoder of equal blocks, whose heads together are as wide as its hidden state."""

    blocks: int
    hidden: int
    intermediate: int
    vocabulary: int
    kv_share: float = 1.0  # of key and value heads to heads
    is_tied: bool = False

    @classmethod
    def of(cls, config: PretrainedConfig) -> Self:
        heads = config.num_attention_heads
        return cls(
            blocks=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            vocabulary=config.vocab_size,
            kv_share=(getattr(config, "num_key_value_heads", None) or heads) / heads,
            is_tied=bool(config.tie_word_embeddings),
        )

    @property
    def block_weights(self) -> float:
        return self.hidden * (self.hidden * (2 + 2 * self.kv_share) + 3 * self.intermediate)

    @property
    def embedding_weights(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    @property
    def channels(self) -> float:
        """In and out of all layers of a block: an adapter has so many numbers for each rank."""
        attention = 2 * (self.hidden + self.hidden)
        attention_kv = 2 * (self.hidden + self.kv_share * self.hidden)
        return attention + attention_kv + 3 * (self.hidden + self.intermediate)


LLAMAS = {
    "Llama-2-7B": Shape(32, 4096, 11008, 32000),
    "Llama-2-13B": Shape(40, 5120, 13824, 32000),
}


@dataclass(frozen=True)
class Training:
    """How a model is trained, whatever its shape."""

    weight_bits: float  # of a weight inside the blocks, as it is held
    trained_share: float  # numbers that move, over channels of all layers: the rank, if all move
    tokens: int  # in memory at a time
    dtype_bytes: int  # of embeddings and activations
    is_checkpointed: bool

    @classmethod
    def of(cls, run: Run, trained_count: int) -> Self:
        """How `run` trains `trained_count` numbers; its weights are still as training held them."""
        own, dtype_bytes = Shape.of(run.model.config), compute_dtype(run.device).itemsize
        blocks = find_blocks(run.model)[1]
        frozen = [p for p in blocks.parameters() if not p.requires_grad]
        held = sum(tensor.nbytes for tensor in [*frozen, *blocks.buffers()])
        longest = max(len(run.examples[i]) for i in run.members)
        return cls(
            weight_bits=8 * held / (own.blocks * own.block_weights),
            trained_share=trained_count / (own.blocks * own.channels),
            tokens=longest * run.micro_batch_size(),
            dtype_bytes=dtype_bytes,
            is_checkpointed=run.config.gradient_checkpointing,
        )


def projected(own: Shape, training: Training, peak_bytes: int) -> dict[str, int]:
    """Peak bytes of each Llama, were it trained as the model of shape `own` was in `peak_bytes`."""
    rest = max(0.0, peak_bytes - training_bytes(own, training))
    return {name: round(rest + training_bytes(shape, training)) for name, shape in LLAMAS.items()}


def training_bytes(shape: Shape, training: Training) -> float:
    """The sum for a model of this shape."""
    weights = shape.blocks * shape.block_weights * training.weight_bits / 8
    embeddings = shape.embedding_weights * training.dtype_bytes
    trained = training.trained_share * shape.blocks * shape.channels * FP32 * COPIES_OF_TRAINED
    saved = SAVED_HIDDEN * shape.hidden + SAVED_INTERMEDIATE * shape.intermediate
    in_block = training.tokens * saved * training.dtype_bytes
    between = training.tokens * shape.hidden * training.dtype_bytes * shape.blocks
    activations = between + in_block if training.is_checkpointed else shape.blocks * in_block
    dense = shape.hidden * shape.intermediate * FP32 * COPIES_OF_DENSE
    return weights + embeddings + trained + activations + dense
