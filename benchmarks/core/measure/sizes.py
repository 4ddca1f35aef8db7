"""What is stored, where no file says it."""

from apiq_core.inspect import ModelFacts


def uniform_bits(bits: int, group_size: int, facts: ModelFacts) -> float:
    """Of a quantized weight: its code, and its share of an fp16 scale and an integer zero point."""
    weights = sum(layer.d_in * layer.d_out for layer in facts.linears)
    groups = sum(layer.d_out * (layer.d_in // group_size) for layer in facts.linears)
    return bits + groups * (16 + bits) / weights


def bits_per_parameter(bits_per_weight: float, facts: ModelFacts) -> float:
    """Of any parameter, if what is not quantized is stored in 16 bits."""
    quantized, count = facts.quantized_weight_count, facts.parameter_count
    return (bits_per_weight * quantized + 16 * (count - quantized)) / count
