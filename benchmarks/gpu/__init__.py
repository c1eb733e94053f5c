"""The ratios of a CUDA device: what measures them, their peers in torch, and their table."""
