"""ApiQ (arXiv 2402.05147): quantize a decoder and initialise its LoRA adapters together.

The entry point is `apiq_core.quantize.quantize`. Nothing is imported here, so that
`apiq_core.config` and `apiq_core.inspect` stay usable where torch is not.
"""

__version__ = "0.1.0"
