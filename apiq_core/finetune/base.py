"""What a run starts from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Base:
    """A checkpoint's folder and, of a quantize job that fitted one, its adapter's.

    `bits` and `group_size` say to what `l4q` quantizes a full-precision checkpoint.
    """

    model_dir: Path
    adapter_dir: Path | None = None
    bits: int | None = None
    group_size: int | None = None
