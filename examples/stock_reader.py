"""Load published artifacts with stock transformers + peft + compressed-tensors and score them.

Nothing of this project is imported: this is what a user of the artifacts does.

    python examples/stock_reader.py --full MODEL_DIR --tokens report.json \
        --quantized ours=artifacts/model --adapter ours=artifacts/adapter
"""

import argparse
import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def load(model_dir: Path, dtype: Any) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, local_files_only=True)


def resident_bytes(model_dir: Path) -> int:
    """Bytes of all tensors of the model once loaded, in its own dtype."""
    model = load(model_dir, "auto")
    tensors = [*model.parameters(), *model.buffers()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def file_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@torch.no_grad()
def score(
    model: torch.nn.Module, tokens: torch.Tensor, reference: list[torch.Tensor]
) -> dict[str, Any]:
    """Perplexity of `tokens` (windows, length) and KL to `reference`, log-probabilities a window.

    An empty `reference` is filled with this model's.
    """
    fill = not reference
    nll = kl = 0.0
    for index, window in enumerate(tokens):
        logits = model(window[None]).logits[0, :-1].float()
        nll += float(cross_entropy(logits, window[1:], reduction="sum"))
        log_p = log_softmax(logits, dim=-1)
        if fill:
            reference.append(log_p)
        else:
            kl += float(kl_div(log_p, reference[index], reduction="sum", log_target=True))
    count = tokens[:, 1:].numel()
    return {"perplexity": math.exp(nll / count), "kl": None if fill else kl / count}


def named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", type=Path, required=True, help="the full-precision model")
    parser.add_argument("--tokens", type=Path, required=True, help="report.json with token_ids")
    parser.add_argument("--quantized", type=named_path, action="append", default=[])
    parser.add_argument("--adapter", type=named_path, action="append", default=[])
    parser.add_argument("--prompt", help="also generate from this with each adapter's model")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    adapters = dict(arguments.adapter)
    tokens = torch.tensor(json.loads(arguments.tokens.read_text())["evaluation"]["token_ids"])
    reference: list[torch.Tensor] = []
    rows = [
        {
            "name": "full precision",
            **score(load(arguments.full, torch.float32), tokens, reference),
            "file_bytes": file_bytes(arguments.full),
            "resident_bytes": resident_bytes(arguments.full),
        }
    ]
    for name, folder in arguments.quantized:
        model = load(folder, torch.float32)
        row = {"file_bytes": file_bytes(folder), "resident_bytes": resident_bytes(folder)}
        if name not in adapters:
            rows.append({"name": name, **score(model, tokens, reference), **row})
            continue
        adapted = PeftModel.from_pretrained(model, adapters[name])
        extra = file_bytes(adapters[name])
        for with_adapter in (False, True):
            with nullcontext() if with_adapter else adapted.disable_adapter():
                scores = score(adapted, tokens, reference)
            label = f"{name} {'with' if with_adapter else 'without'} adapter"
            sizes = {key: value + extra * with_adapter for key, value in row.items()}
            rows.append({"name": label, **scores, **sizes})
        if arguments.prompt:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            inputs = tokenizer(arguments.prompt, return_tensors="pt")
            output = adapted.generate(**inputs, max_new_tokens=40, do_sample=False)
            rows[-1]["generated"] = tokenizer.decode(output[0], skip_special_tokens=True)
    print(*map(json.dumps, rows), sep="\n")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
