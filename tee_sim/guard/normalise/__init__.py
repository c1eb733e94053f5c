"""Other readings of a text, each with a map back to the characters it was made from."""
