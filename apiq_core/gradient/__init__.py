"""The gradient phases: what is trained of a block or a layer, and how."""
