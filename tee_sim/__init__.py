"""A simulated trusted execution environment: separate processes reached through typed commands.

It is a *simulation*: process isolation stands in for TrustZone. See docs/tee.md for what that
does and does not protect. The host imports `tee_sim.client` and nothing else.
"""
