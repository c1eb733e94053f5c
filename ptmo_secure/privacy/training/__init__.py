"""Fine-tuning of the guard's token classifier: `ptmo guard train`. Needs the `train` extra."""
