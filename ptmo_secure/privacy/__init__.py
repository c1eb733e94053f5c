"""What a text gives away: sensitivity, masking, decomposition, the budget, and guards measured."""
