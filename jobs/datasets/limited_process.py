"""A Python process that reads what a stranger wrote, and no secrets with it.

How much it may use it says itself, by `apiq_core.process_limits`.
"""

import os
import sys

KEPT = ("PATH", "PYTHONPATH", "HOME", "LD_LIBRARY_PATH")  # of the environment
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    return ENVIRONMENT | {name: os.environ[name] for name in KEPT if name in os.environ}


def last_words(stderr: bytes) -> str:
    """Of a process that failed."""
    return " ".join(stderr.decode(errors="replace").strip().splitlines()[-1:])[:300]
