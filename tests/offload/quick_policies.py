"""Policies for tests: trained for few steps, and left out where their extra is not installed."""

from importlib.util import find_spec

from ptmo_secure.offload.policies import POLICIES, make_policy

TRAINED = tuple(name for name in POLICIES if name.startswith(("tmo-", "rc-")))
HERE = tuple(name for name in POLICIES if find_spec("sb3_contrib") or name not in TRAINED)


def quick_policy(name, seed):
    """A policy that is fitted in a second or two."""
    policy = make_policy(name, seed)
    if name in TRAINED:
        policy._steps = 128
    if name == "treacle":
        policy._episodes = 50
    return policy
