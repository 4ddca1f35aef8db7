"""Fill in a config's defaults for the model at hand, and refuse what does not fit it.

Torch-free like `apiq_core.inspect`: the service does this before it accepts a job.
"""

from apiq_core.budget.plan import MIXED_ZERO_POINT_BITS, bits_per_weight
from apiq_core.config import (
    ADAPTER_NEEDED,
    GROUP_SIZES,
    NORMAL_FLOAT,
    PER_CHANNEL,
    RECIPES,
    WIDTHS,
    WITHOUT_ADAPTER,
    Calibration,
    Evaluation,
    Format,
    LayerSpec,
    QuantizeConfig,
    Recipe,
    Training,
)
from apiq_core.errors import UserError
from apiq_core.inspect import ModelFacts
from apiq_core.training_defaults import OMNIQUANT_EPOCHS_AT_2_BITS, TRAINING_DEFAULTS

DEFAULT_GROUP_SIZES = (64, 32, PER_CHANNEL)
MAX_DEFAULT_RANK = 64
DEFAULT_ADAPTER_BITS = 0.4  # per quantized weight
NORMAL_FLOAT_BITS = (2, 3, 4)

# of a gradient phase, or the method that is one: these round to nearest in every step
CLIPPING_RECIPES = ("paper", "omniquant")

# those that give each layer a width and a rank of its own
BUDGET_METHODS = ("apiq-bw", "apiq-lw")
BUDGET_ADAPTERS = ("lora",)


def resolve(config: QuantizeConfig, facts: ModelFacts) -> QuantizeConfig:
    """The config with every default filled in for this model; sources stay as they are.

    Raises `UserError` naming the field, where the config does not fit the model.
    """
    recipe = _resolve_recipe(config)
    _check_adapter(config)
    _check_method_of_budget(config)
    group_size = _resolve_group_size(config, facts)
    _check_budget(config, group_size, facts)
    training = _resolve_training(config, recipe or config.method)
    return config.model_copy(
        update={
            "recipe": recipe,
            "formats": _resolve_formats(config, training),
            "group_size": group_size,
            "rank": _resolve_rank(config, facts),
            "training": training,
            "calibration": _fits_context(config.calibration, "calibration", facts),
            "evaluation": _fits_context(config.evaluation, "evaluation", facts),
        }
    )


def _resolve_recipe(config: QuantizeConfig) -> Recipe | None:
    legal = RECIPES[config.method]
    if config.recipe is None:
        return legal[0] if legal else None
    if config.recipe not in legal:
        raise UserError(
            "illegal_recipe",
            f"method {config.method} has no recipe {config.recipe!r}; legal: "
            + (", ".join(legal) or "none"),
            param="recipe",
            value=config.recipe,
            legal=list(legal),
        )
    return config.recipe


def _check_adapter(config: QuantizeConfig) -> None:
    if config.adapter == "lora" or config.method == "apiq-bw":
        return
    raise UserError(
        "illegal_adapter",
        f"adapter {config.adapter} is trained, which needs method apiq-bw, not {config.method}; "
        "legal here: lora",
        param="adapter",
        value=config.adapter,
        legal=["lora"],
    )


def _resolve_formats(config: QuantizeConfig, training: Training) -> list[Format]:
    if config.formats == ["dense"] and training.polish_epochs:
        raise UserError(
            "illegal_format",
            "the polish trains around the integers, which dense does not hold; take another format "
            "or training.polish_epochs 0",
            param="formats",
            value=config.formats,
            legal=["compressed-tensors"],
        )
    if config.method not in NORMAL_FLOAT:
        return config.formats or ["compressed-tensors"]
    if config.bits not in NORMAL_FLOAT_BITS:
        raise UserError(
            "illegal_bits",
            f"method {config.method} has no normal float of {config.bits} bits; legal: "
            + ", ".join(map(str, NORMAL_FLOAT_BITS)),
            param="bits",
            value=config.bits,
            legal=list(NORMAL_FLOAT_BITS),
        )
    formats = config.formats or ["dense"]
    if formats != ["dense"]:
        raise UserError(
            "illegal_format",
            f"method {config.method} rounds to no uniform grid, which {formats[0]} would need; "
            "legal: dense",
            param="formats",
            value=formats,
            legal=["dense"],
        )
    return formats


def _resolve_group_size(config: QuantizeConfig, facts: ModelFacts) -> int:
    if config.bits is not None:
        _check_packable(config.bits, facts)
    wanted = DEFAULT_GROUP_SIZES if config.group_size is None else (config.group_size,)
    for group_size in wanted:
        if group_size == PER_CHANNEL or all(x.d_in % group_size == 0 for x in facts.linears):
            return group_size
    layer = next(x for x in facts.linears if x.d_in % wanted[0])
    legal = [g for g in GROUP_SIZES if all(x.d_in % g == 0 for x in facts.linears)] + [PER_CHANNEL]
    raise UserError(
        "group_size_does_not_divide",
        f"group_size {config.group_size} does not divide the {layer.d_in} inputs of {layer.name}; "
        f"legal for this model: {', '.join(map(str, legal))}",
        param="group_size",
        value=config.group_size,
        legal=legal,
    )


def _check_packable(bits: int, facts: ModelFacts) -> None:
    multiple = _multiple(bits)
    for layer in facts.linears:
        for side, size in (("inputs", layer.d_in), ("outputs", layer.d_out)):
            if size % multiple:
                raise UserError(
                    "layer_not_packable",
                    f"{layer.name} has {size} {side}, not a multiple of {multiple} as "
                    f"{bits}-bit codes need",
                    param="bits",
                    value=bits,
                )


def packable_widths(facts: ModelFacts) -> tuple[int, ...]:
    """The bits at which every layer can be stored."""
    sizes = [size for layer in facts.linears for size in (layer.d_in, layer.d_out)]
    return tuple(bits for bits in WIDTHS if not any(size % _multiple(bits) for size in sizes))


def _multiple(bits: int) -> int:
    """Of the sides of a layer: codes fill whole int32 words."""
    return 32 // bits if 32 % bits == 0 else 32


def _check_method_of_budget(config: QuantizeConfig) -> None:
    if config.bits_per_weight is None:
        return
    for code, name, value, legal in (
        ("illegal_method", "method", config.method, BUDGET_METHODS),
        ("illegal_adapter", "adapter", config.adapter, BUDGET_ADAPTERS),
    ):
        if value not in legal:
            raise UserError(
                code,
                f"bits_per_weight does not go with {name} {value}; legal: {', '.join(legal)}, or "
                "bits instead",
                param=name,
                value=value,
                legal=list(legal),
            )


def _check_budget(config: QuantizeConfig, group_size: int, facts: ModelFacts) -> None:
    """Whether there is a plan at all."""
    if config.bits_per_weight is None:
        return
    if group_size == PER_CHANNEL:
        raise UserError(
            "illegal_group_size",
            f"group_size is {group_size}, one group a channel"
            + ("" if config.group_size else ", as 64 and 32 do not divide every layer")
            + "; bits_per_weight needs groups of 32, 64 or 128 inputs",
            param="group_size",
            value=group_size,
            legal=list(GROUP_SIZES),
        )
    widths = packable_widths(facts)
    if not widths:
        _check_packable(WIDTHS[0], facts)  # raises, and says which layer
    smallest = [{layer.name: LayerSpec(widths[0], group_size, 0) for layer in facts.linears}]
    least = bits_per_weight(smallest * facts.block_count, facts, MIXED_ZERO_POINT_BITS)
    if config.bits_per_weight < least:
        raise UserError(
            "budget_too_small",
            f"bits_per_weight {config.bits_per_weight} holds no plan: {widths[0]}-bit codes with "
            f"scales and zero points of groups of {group_size} take {least:.4f}; legal: at least "
            f"{round(least + 5e-5, 4)}",
            param="bits_per_weight",
            value=config.bits_per_weight,
            legal={"at_least": round(least + 5e-5, 4)},
        )


def _resolve_rank(config: QuantizeConfig, facts: ModelFacts) -> int | None:
    if config.bits_per_weight is not None:
        return None
    if config.method in WITHOUT_ADAPTER or config.adapter == "ia3":
        if config.rank:
            which = (
                "adapter ia3 has no rank"
                if config.adapter == "ia3"
                else f"method {config.method} has no adapter"
            )
            raise UserError(
                "illegal_rank",
                f"rank is {config.rank}; {which}; legal: 0, or leave rank out",
                param="rank",
                value=config.rank,
                legal=[0],
            )
        return 0
    if config.adapter == "dora" and config.rank == 0:
        raise UserError(
            "illegal_rank",
            "rank is 0; dora needs a rank of 1 or more; for no adapter at all take lora with "
            "rank 0",
            param="rank",
            value=0,
        )
    smallest = min(facts.linears, key=lambda layer: min(layer.d_in, layer.d_out))
    largest_rank = min(smallest.d_in, smallest.d_out)
    if config.rank is None:
        factors = sum(layer.d_in + layer.d_out for layer in facts.linears)
        weights = sum(layer.d_in * layer.d_out for layer in facts.linears)
        rank = MAX_DEFAULT_RANK
        while rank > 1 and (16 * rank * factors / weights > DEFAULT_ADAPTER_BITS):
            rank //= 2
        return min(rank, largest_rank)
    if config.rank == 0 and config.method in ADAPTER_NEEDED:
        raise UserError(
            "illegal_rank",
            f"rank is 0; method {config.method} is about its adapter; legal: 1 to {largest_rank}",
            param="rank",
            value=0,
            legal={"at_least": 1, "at_most": largest_rank},
        )
    if config.rank > largest_rank:
        raise UserError(
            "rank_too_large",
            f"rank {config.rank} is larger than layer {smallest.name} "
            f"({smallest.d_in} x {smallest.d_out}) allows; legal: 0 to {largest_rank}",
            param="rank",
            value=config.rank,
            legal={"at_least": 0, "at_most": largest_rank},
        )
    return config.rank


def _resolve_training(config: QuantizeConfig, recipe: str) -> Training:
    given = config.training.model_dump(exclude_none=True)
    if recipe not in TRAINING_DEFAULTS:
        if given:
            name = next(iter(given))
            of_recipe = f" with recipe {recipe}" if recipe != config.method else ""
            trained = [x for x in RECIPES[config.method] if x in TRAINING_DEFAULTS]
            instead = f", or take recipe {' or '.join(trained)}" if trained else ""
            raise UserError(
                "no_gradient_phase",
                f"method {config.method}{of_recipe} trains nothing; leave out training.{name}"
                f"{instead}",
                param=f"training.{name}",
                value=given[name],
            )
        return config.training
    if config.method in WITHOUT_ADAPTER and given.get("lr_adapter"):
        raise UserError(
            "no_adapter",
            f"method {config.method} has no adapter; leave out training.lr_adapter",
            param="training.lr_adapter",
            value=given["lr_adapter"],
        )
    if recipe in CLIPPING_RECIPES and given.get("lr_rounding"):
        raise UserError(
            "no_rounding",
            f"{recipe} trains the clipping, not the rounding; leave out training.lr_rounding",
            param="training.lr_rounding",
            value=given["lr_rounding"],
        )
    defaults = TRAINING_DEFAULTS[recipe]
    if recipe == "omniquant" and config.bits == 2:
        defaults = defaults.model_copy(update={"epochs": OMNIQUANT_EPOCHS_AT_2_BITS})
    return defaults.model_copy(update=given)


def _fits_context(
    text: Calibration | Evaluation, name: str, facts: ModelFacts
) -> Calibration | Evaluation:
    if text.length > facts.max_length:
        raise UserError(
            "length_exceeds_context",
            f"{name}.length {text.length} exceeds the model's context; legal: 8 to "
            f"{facts.max_length}",
            param=f"{name}.length",
            value=text.length,
            legal={"at_least": 8, "at_most": facts.max_length},
        )
    return text
