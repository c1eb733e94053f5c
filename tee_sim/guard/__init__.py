"""The PII guard's rules: recognisers that find spans, and the scoring of what they found."""
