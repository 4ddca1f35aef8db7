"""ApiQ-lw without a gradient step: rounding and the exact low rank from sums over tokens."""
