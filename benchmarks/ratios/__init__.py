"""What `check_ratios.py` measures: a function a ratio, a file a topic."""
