"""What the processor keeps of rows of many lengths."""

import os
import subprocess
import sys

import pytest

BOUNDED = "from apiq_core.finetune.memory import keep_few_kernels; keep_few_kernels()"
PRODUCTS = """
import torch
{first}
layer = torch.nn.Conv2d(16, 32, 3)
for size in [*range(10, 50), 10]:
    layer(torch.ones(4, 16, size, size))
"""


@pytest.mark.parametrize(
    ("first", "is_bounded"), [("", False), (BOUNDED, True)], ids=["as it is", "bounded"]
)
def test_kernels_of_earlier_shapes_are_forgotten(first: str, is_bounded: bool) -> None:
    environment = {**os.environ, "ONEDNN_VERBOSE": "all"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    told = subprocess.run(
        [sys.executable, "-c", PRODUCTS.format(first=first)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    made = [line.rpartition(",")[0] for line in told.splitlines() if "create:cache_miss" in line]
    assert len(made) > 64
    assert (len(made) > len(set(made))) == is_bounded
