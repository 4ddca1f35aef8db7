"""Bits and rank of each layer under a budget: `bits_per_weight`."""
