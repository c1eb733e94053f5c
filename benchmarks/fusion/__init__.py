"""What the benchmarks of fusion share: texts, a model in the cloud's role, and positions."""
