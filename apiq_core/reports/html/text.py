"""The figures of a report in words, as the page and the model card show them."""

import math
from dataclasses import dataclass
from typing import Any

from apiq_core.config import DATA_FREE, FRESH_ADAPTER, NORMAL_FLOAT, PER_CHANNEL, Method

NOT_FINITE = "not finite"
ABSENT = "—"
METHODS: dict[Method, str] = {
    "apiq-bw": "block-wise ApiQ",
    "apiq-lw": "layer-wise ApiQ",
    "rtn": "round to nearest",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "omniquant": "OmniQuant (weight clipping)",
    "loftq": "LoftQ",
    "qlora": "QLoRA (normal float)",
    "gptq-lora": "GPTQ-LoRA",
}
ADAPTERS = {"lora": "LoRA", "dora": "DoRA", "ia3": "IA3"}
TEXTS = {"builtin": "Python's language reference (builtin)", "wikitext2": "WikiText-2"}
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def finite(value: Any) -> float | None:
    """The number, or None for NaN, infinity and null (which is how JSON writes both)."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def number(value: Any) -> str:
    """About four digits of it."""
    x = finite(value)
    if x is None:
        return NOT_FINITE
    if x == 0:
        return "0"
    if abs(x) >= 1e6 or abs(x) < 1e-3:
        mantissa, exponent = f"{x:.2e}".split("e")
        return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPT)}"
    digits = max(0, 3 - math.floor(math.log10(abs(x)))) if abs(x) >= 1 else 4
    return f"{x:,.{digits}f}"


def size(size_bytes: Any) -> str:
    """Decimal units, as file listings of hubs use them."""
    x = finite(size_bytes)
    if x is None:
        return NOT_FINITE
    for unit in ("B", "kB", "MB"):
        if x < 999.5:
            return f"{x:.0f} {unit}" if x >= 100 or unit == "B" else f"{x:.3g} {unit}"
        x /= 1000
    return f"{x:,.3g} GB" if x < 100 else f"{x:,.0f} GB"


def duration(seconds: Any) -> str:
    x = finite(seconds)
    if x is None:
        return NOT_FINITE
    if x < 59.95:
        return f"{x:.3g} s"
    minutes, rest = divmod(round(x), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


@dataclass(frozen=True)
class Network:
    """A row of the table of results."""

    name: str
    perplexity: str
    ratio: str  # of the perplexity to full precision's
    kl: str
    bits_per_weight: str
    stored: str  # size of the files


def has_adapter(report: dict[str, Any]) -> bool:
    return bool(report["bits_per_weight"]["adapter"])


def changes_nothing(report: dict[str, Any]) -> bool:
    """Whether the adapter is still where it started, and is there to be finetuned."""
    scores = report.get("perplexity") or {}
    quantized = finite(scores.get("quantized"))
    same = quantized is not None and quantized == scores["quantized_with_adapter"]
    return has_adapter(report) and (report["config"]["method"] in FRESH_ADAPTER or same)


def width(report: dict[str, Any]) -> str:
    """`2 bits`, or the budget where each layer has a width of its own."""
    config = report["config"]
    if config["bits"] is not None:
        return f"{config['bits']} bits"
    return f"{config['bits_per_weight']:g} bits per weight"


def is_mixed(report: dict[str, Any]) -> bool:
    """Whether packed layers differ in width."""
    return report["config"]["bits"] is None and not is_dense(report)


def is_dense(report: dict[str, Any]) -> bool:
    """Whether `model/` holds plain weights, not packed integers."""
    return bool(report["config"]["formats"] == ["dense"])


def networks(report: dict[str, Any]) -> list[Network]:
    """Full precision, plain RTN, and what was made, without and with its adapter."""
    bits, stored = report["bits_per_weight"], report["bytes"]
    full_bits = 8 * stored["source"] / max(1, report["parameter_count"])
    made = stored.get("model", 0)
    same = "the same widths" if report["config"]["bits"] is None else width(report)
    rounded = f"round to nearest, {same}"
    rows = [
        ("full_precision", "full precision", full_bits, size(stored["source"])),
        ("rtn", rounded, _rounded_bits(report), ABSENT),
        ("quantized", "this model", bits["weights"], size(made)),
    ]
    if has_adapter(report):
        both = made + stored.get("adapter", 0)
        rows[2] = ("quantized", "this model, without adapter", bits["weights"], size(made))
        rows.append(
            ("quantized_with_adapter", "this model, with adapter", bits["total"], size(both))
        )
    if report["config"]["method"] == "rtn":
        del rows[1]  # the same network as the next
    perplexity, kl = report.get("perplexity") or {}, report.get("kl") or {}
    reference = finite(perplexity.get("full_precision"))
    result = []
    for key, name, bits_per_weight, file_size in rows:
        own = finite(perplexity.get(key))
        result.append(
            Network(
                name=name,
                perplexity=number(perplexity[key]) if key in perplexity else ABSENT,
                ratio=number(own / reference) if own is not None and reference else ABSENT,
                kl=number(kl.get(key, 0 if key == "full_precision" else None)) if kl else ABSENT,
                bits_per_weight=f"{bits_per_weight:.2f}",
                stored=file_size,
            )
        )
    return result


def _rounded_bits(report: dict[str, Any]) -> float:
    """Bits per weight of plain rounding: a normal float, beside it, has no zero points."""
    config, stored = report["config"], float(report["bits_per_weight"]["weights"])
    if config["method"] not in NORMAL_FLOAT:
        return stored
    layers = [(x["d_in"], x["d_out"]) for block in report["blocks"] for x in block["layers"]]
    group = config["group_size"]
    zero_points = sum(o * (1 if group == PER_CHANNEL else i // group) for i, o in layers)
    each = zero_points / max(1, sum(i * o for i, o in layers))
    return stored + float(config["bits"] * each)


def how(report: dict[str, Any]) -> str:
    """Method, bits and groups in half a line."""
    config = report["config"]
    recipe = f", recipe {config['recipe']}" if config["recipe"] else ""
    group = config["group_size"]
    groups = "one group per output channel" if group == PER_CHANNEL else f"groups of {group}"
    kind = ADAPTERS[config["adapter"]]
    rank = f" of rank {config['rank']}" if config["rank"] else ""
    adapter = f", {kind} adapter{rank}" if has_adapter(report) else ", no adapter"
    return f"{METHODS[config['method']]}{recipe}; {width(report)}, {groups}{adapter}"


def measured_on(report: dict[str, Any]) -> str:
    """On which text perplexity and KL were measured."""
    text = report.get("evaluation")
    if text is None:
        return "Perplexity and KL were not measured (evaluation.samples is 0)."
    if report["config"]["method"] in DATA_FREE:
        where = ""
    elif text["in_domain"]:
        where = ": in-domain, another part of the text that was calibrated on"
    else:
        where = ": not the text that was calibrated on"
    return (
        f"Perplexity and KL were measured on {text['tokens']:,} tokens of {_name(text['source'])}, "
        f"in {text['windows']} windows of {text['length']}{where}."
    )


def calibrated_on(report: dict[str, Any]) -> str:
    """On which text the model was calibrated."""
    text = report.get("calibration")
    if text is None or not text["train_windows"]:
        method = METHODS[report["config"]["method"]]
        return f"Nothing was calibrated: {method} looks at the weights alone."
    return (
        f"Calibrated on {text['tokens']:,} tokens of {_name(text['source'])}, "
        f"in {text['train_windows']} windows of {text['length']}; "
        f"{text['held_out_windows']} further windows were held out."
    )


def _name(source: str) -> str:
    return TEXTS.get(source, source)
