"""Learners with real constraints: cost critics, PID-controlled multipliers, masks, small networks.

`lagrangian` holds the multipliers, `features` what a network sees of a turn, `network` decides in
NumPy, `ppo`, `a2c` and `dqn` train with torch. Deciding needs no torch.
"""
