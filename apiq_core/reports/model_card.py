"""`README.md` of an artifact: what it is, how good it is, and the lines that load it."""

import re
from typing import Any

from huggingface_hub import ModelCardData

from apiq_core.reports.html.text import (
    calibrated_on,
    changes_nothing,
    has_adapter,
    how,
    is_dense,
    is_mixed,
    measured_on,
    networks,
    size,
    width,
)
from apiq_core.reports.markdown import code, plain

# the versions that reading was tested with; compressed-tensors packs 3 bits differently elsewhere
READERS = "transformers==5.23.0 peft==0.21.2 compressed-tensors==0.20.0"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
HERE = "In the folder of this file:"  # the paths of the lines are relative
# layers of different widths stay packed until the first forward pass; PEFT needs them before
UNPACK = "model.hf_quantizer.compressor.decompress_model(model)  # PEFT needs plain weights"
VLLM_BITS = 4  # what vLLM loads without further kernels
VLLM_ADAPTER = "lora"
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be


def model_card(report: dict[str, Any]) -> str:
    """The card for a `Report.model_dump(mode="json")`."""
    parts = [
        front_matter(str(report["model"]), "quantized", _tags(report)),
        f"# {plain(report['model'])} at {width(report)}",
        _what_it_is(report),
        "## Results",
        _results(report),
        "## Load it",
        _load(report),
    ]
    if report["config"]["bits"] == VLLM_BITS and report["config"]["adapter"] == VLLM_ADAPTER:
        parts += ["With vLLM:", code("sh", _vllm(report))]
    if has_adapter(report) and not changes_nothing(report):
        parts += [
            "Keep the adapter apart. Merging it into the weights and rounding again loses it: at 2 "
            "bits the rounding step is larger than the correction.",
        ]
    if report["warnings"]:
        parts += ["## Warnings", "\n".join(f"- {plain(text)}" for text in report["warnings"])]
    parts += [
        "## Licence",
        "That of the base model: these files are derived from it, and its terms hold for them.",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(
    model: str, relation: str, tags: list[str], library_name: str = "transformers"
) -> str:
    """What hubs read of a card; `relation` is that of the artifact to the base `model`."""
    named = HUB_ID.fullmatch(model) is not None  # hubs refuse cards that name anything else
    data = ModelCardData(
        base_model=model if named else None,
        base_model_relation=relation if named else None,
        library_name=library_name,
        pipeline_tag="text-generation",
        tags=["apiq", *tags],
    )
    return f"---\n{data.to_yaml()}\n---"


def _tags(report: dict[str, Any]) -> list[str]:
    bits = report["config"]["bits"]
    packed = [] if is_dense(report) else ["compressed-tensors"]
    return [report["config"]["method"], *packed, *([] if bits is None else [f"{bits}-bit"])]


def _what_it_is(report: dict[str, Any]) -> str:
    stored = report["bytes"]
    content = (
        "the values of quantized weights in bf16" if is_dense(report) else "packed integer weights"
    )
    files = f"`model/` holds {content} ({size(stored.get('model', 0))})"
    if has_adapter(report):
        purpose = (
            "changes nothing yet: it is to be finetuned"
            if changes_nothing(report)
            else "corrects what rounding lost; use them together"
        )
        adapter = size(stored.get("adapter", 0))
        files += f", `adapter/` a PEFT adapter ({adapter}) that {purpose}"
    return (
        f"Quantized from {plain(report['model'])}: {how(report)}. {files}. "
        "`report.html` and `report.json` have every figure."
    )


def _results(report: dict[str, Any]) -> str:
    texts = f"{plain(measured_on(report))} {plain(calibrated_on(report))}"
    if not report.get("perplexity"):
        return texts
    lines = [
        "| | perplexity | KL to full precision (nats per token) | bits per weight | weight files |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {x.name} | {x.perplexity} | {x.kl} | {x.bits_per_weight} | {x.stored} |"
        for x in networks(report)
    ]
    return "\n".join(lines) + f"\n\n{texts}"


def _load(report: dict[str, Any]) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("model")',
        'tokenizer = AutoTokenizer.from_pretrained("model")',
        'inputs = tokenizer("The capital of France is", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))",
    ]
    if has_adapter(report):
        lines.insert(0, "from peft import PeftModel")
        lines.insert(4, 'model = PeftModel.from_pretrained(model, "adapter")')
        if is_mixed(report):
            lines.insert(4, UNPACK)
    when = "before they are first used" if is_mixed(report) else "as it loads them"
    size_in_memory = (
        "The files are as large as the original's, and so is the model in memory."
        if is_dense(report)
        else f"transformers unpacks the weights {when}: the files are small, the model in memory "
        "is as large as the original."
    )
    return "\n\n".join(
        [
            HERE,
            code("sh", f"pip install torch {READERS}"),
            code("python", "\n".join(lines)),
            size_in_memory,
        ]
    )


def _vllm(report: dict[str, Any]) -> str:
    if not has_adapter(report):
        return "vllm serve ./model"
    rank = next(rank for rank in VLLM_RANKS if rank >= report["config"]["rank"])
    return (
        f"vllm serve ./model --enable-lora --max-lora-rank {rank} --lora-modules apiq=./adapter\n"
        'curl localhost:8000/v1/completions -H "Content-Type: application/json" \\\n'
        """  -d '{"model": "apiq", "prompt": "The capital of France is", "max_tokens": 20}'"""
    )
