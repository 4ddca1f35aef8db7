"""What is stored, where no file says it."""

from apiq_core.inspect import ModelFacts


def bits_per_parameter(bits_per_weight: float, facts: ModelFacts) -> float:
    """Of any parameter, if what is not quantized is stored in 16 bits."""
    quantized, count = facts.quantized_weight_count, facts.parameter_count
    return (bits_per_weight * quantized + 16 * (count - quantized)) / count
