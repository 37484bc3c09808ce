"""The parts of `scripts/gpu-check`: what it verifies and measures on a machine with a GPU."""
