"""Where a run keeps what it can go on from. Torch-free: the service moves these files too."""

from pathlib import Path


def blocks_dir(out_dir: Path) -> Path:
    return out_dir / "blocks"


def polished_dir(out_dir: Path) -> Path:
    return out_dir / "polished"


def polished_file(out_dir: Path, index: int) -> Path:
    """The tensors of one block after the end-to-end polish."""
    return polished_dir(out_dir) / f"{index:05d}.safetensors"


def block_file(out_dir: Path, index: int) -> Path:
    """Everything that is known of one finished block: tensors, report, identity."""
    return blocks_dir(out_dir) / f"{index:05d}.safetensors"


def training_checkpoint(out_dir: Path) -> Path:
    """Where a training run can go on from; the next one takes its place."""
    return out_dir / "checkpoint.safetensors"
