"""Trusted applications: code that runs inside the TEE process, behind the dispatcher."""
