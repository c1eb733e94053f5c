"""The supplicant: keeps in files what the TEE seals, and can read none of it."""
