"""How each linear layer of each block is to be stored, and what that takes. Torch-free."""

import json
from collections.abc import Mapping, Sequence

from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.inspect import LinearShape, ModelFacts

Plan = Sequence[Mapping[str, LayerSpec]]  # by block, then by layer name inside it

SCALE_BYTES = 2  # fp16
FACTOR_BYTES = 2  # fp16
MIXED_ZERO_POINT_BITS = 8  # where widths differ, zero points are not packed (formats.mixed)


def uniform_plan(config: QuantizeConfig, facts: ModelFacts) -> Plan:
    """The same for all; `config` is resolved and gives `bits`."""
    layers = dict.fromkeys((layer.name for layer in facts.linears), config.layer_spec())
    return [layers] * facts.block_count


def weight_bytes(layer: LinearShape, spec: LayerSpec, zero_point_bits: int) -> float:
    """Codes, scales and zero points of one layer."""
    groups = layer.d_out * (layer.d_in // spec.group_size if spec.group_size > 0 else 1)
    return layer.d_out * layer.d_in * spec.bits / 8 + groups * (SCALE_BYTES + zero_point_bits / 8)


def factor_bytes(layer: LinearShape, rank: int) -> int:
    """A and B of one layer."""
    return FACTOR_BYTES * rank * (layer.d_in + layer.d_out)


def bits_per_weight(plan: Plan, facts: ModelFacts, zero_point_bits: int | None = None) -> float:
    """Of the weights alone: codes, fp16 scales and zero points.

    Zero points take as many bits as codes, or `zero_point_bits`.
    """
    stored = sum(
        weight_bytes(layer, spec, spec.bits if zero_point_bits is None else zero_point_bits)
        for specs in plan
        for layer in facts.linears
        for spec in [specs[layer.name]]
    )
    return 8 * stored / facts.quantized_weight_count


def plan_to_text(plan: Plan) -> str:
    """JSON, the same for the same plan."""
    return json.dumps(
        [{n: [s.bits, s.group_size, s.rank] for n, s in specs.items()} for specs in plan],
        sort_keys=True,
        separators=(",", ":"),
    )


def plan_from_text(text: str) -> Plan:
    """The inverse of `plan_to_text`."""
    return [{name: LayerSpec(*spec) for name, spec in specs.items()} for specs in json.loads(text)]
