"""Run by AutoRound's own interpreter, where nothing of this project is installed.

MODEL_DIR WORK_DIR BITS GROUP_SIZE ITERATIONS: WORK_DIR/tokens.safetensors (windows, length) is
calibrated on; leaves WORK_DIR/dense, the dequantized model in fp32, and WORK_DIR/autoround.json.
"""

import json
import re
import sys
import time
from pathlib import Path

import torch
from auto_round import AutoRound
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    model_dir, work_dir = Path(sys.argv[1]), Path(sys.argv[2])
    bits, group_size, iterations = map(int, sys.argv[3:])
    tokens = load_file(work_dir / "tokens.safetensors")["tokens"]
    windows = [{"input_ids": w[None], "attention_mask": torch.ones_like(w[None])} for w in tokens]
    rounding = AutoRound(
        AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
        AutoTokenizer.from_pretrained(model_dir),
        scheme=f"W{bits}A16",
        sym=False,
        group_size=group_size,
        iters=iterations,
        dataset=windows,
        nsamples=len(windows),
        seqlen=tokens.shape[1],
        batch_size=min(8, len(windows)),
        device_map="cpu",
        enable_torch_compile=False,
        seed=0,
    )
    began = time.monotonic()
    quantized, _ = rounding.quantize()
    seconds = time.monotonic() - began
    exact = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    weights = dict(exact.named_parameters())
    for name, module in quantized.named_modules():
        if getattr(module, "scale", None) is not None:
            weights[f"{name}.weight"].data = dequantize(module, group_size)
    exact.save_pretrained(work_dir / "dense")
    figures = {"seconds": seconds, "peak_memory_bytes": {"quantizing": peak_bytes()}}
    (work_dir / "autoround.json").write_text(json.dumps(figures))


def dequantize(module: torch.nn.Linear, group_size: int) -> torch.Tensor:
    """s (q - z) in fp32: AutoRound leaves the products rounded to bf16, its files hold them exact.

    That rounding is far less than half a step, so q - z is found again.
    """
    d_out, d_in = module.weight.shape
    groups = module.weight.data.float().reshape(d_out, -1, group_size)
    stored: torch.Tensor = module.scale  # type: ignore[assignment]
    scales = stored.float().reshape(d_out, d_in // group_size, 1)
    return ((groups / scales).round() * scales).reshape(d_out, d_in)


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
