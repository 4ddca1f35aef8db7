"""Checkpoint formats by name: how one quantized layer is stored, and how config.json says so.

A format is a module with `pack_layer`, `unpack_layer` and `quantization_config` (None: no reader
needs to be told). `MIXED` has those that hold layers of different widths.
"""

from types import ModuleType

from apiq_core.config import Format
from apiq_core.formats import compressed_tensors, compressed_tensors_mixed, dense

FORMATS: dict[Format, ModuleType] = {"compressed-tensors": compressed_tensors, "dense": dense}
MIXED: dict[Format, ModuleType] = {"compressed-tensors": compressed_tensors_mixed, "dense": dense}
