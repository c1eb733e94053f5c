"""Policies by name. Each is one class of `Policy`; the simplest ones come first."""

from importlib import import_module
from typing import TYPE_CHECKING

from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptmo_secure.offload.policies.base import Policy

_HOME = {
    "random": "fixed:RandomPolicy",
    "local-only": "fixed:LocalOnly",
    "cloud-only": "fixed:CloudOnly",
    "rule": "fixed:SensitiveLocal",
    "threshold": "threshold:Threshold",
    "greedy": "greedy:MaskedGreedy",
    "tfidf": "tfidf:TfidfRouter",
    "knn": "knn:KnnRouter",
    "matrix": "matrix:MatrixRouter",
    "groups": "groups:GroupRouter",
    "shaped": "shaped:ShapedRouter",
    "cascade": "cascade:Cascade",
    "cs-ucb": "bandits:ConstraintUcb",
    "linucb": "bandits:LinUcb",
    "thompson": "bandits:Thompson",
    "moa-off": "moaoff:MoaOff",
    "treacle": "treacle:Treacle",
    "tmo-ppo": "tmo:TmoPpo",
    "tmo-a2c": "tmo:TmoA2c",
    "tmo-dqn": "tmo:TmoDqn",
    "tmo-rc-ppo": "tmo:TmoRcPpo",
    "tmo-rc-a2c": "tmo:TmoRcA2c",
    "tmo-rc-dqn": "tmo:TmoRcDqn",
    "rc-ppo": "learned:RcPpoPolicy",
    "rc-a2c": "learned:RcA2cPolicy",
    "rc-dqn": "learned:RcDqnPolicy",
    "advice": "learned:AdviceOnly",
    "rl": "ptmo_secure.offload.shipped:ShippedPolicy",
    "query-oracle": "oracles:QueryOracle",
    "constrained-oracle": "oracles:ConstrainedOracle",
}
POLICIES = tuple(_HOME)
_TRAINED_FOR = {"rl": "sessions"}  # elsewhere it understands neither observation nor actions


def make_policy(name: str, seed: int) -> "Policy":
    """Return a policy by its name, not fitted yet.

    Raises:
        InputError: there is none of this name.
    """
    check_names([name])
    module, _, kind = _HOME[name].partition(":")
    home = module if "." in module else f"{__name__}.{module}"
    made: Policy = getattr(import_module(home), kind)(seed)
    return made


def chosen(text: str, env: str) -> tuple[str, ...]:
    """Return the policies of a list with commas, or for "all" those that can play an environment.

    Raises:
        InputError: there is none of a name, or it cannot play there.
    """
    if text == "all":
        return tuple(name for name in POLICIES if _TRAINED_FOR.get(name, env) == env)
    names = tuple(text.split(","))
    check_names(names)
    for name in names:
        if _TRAINED_FOR.get(name, env) != env:
            raise InputError(f"the policy {name} plays {_TRAINED_FOR[name]} alone, not {env}")
    return names


def check_names(names: "Sequence[str]") -> None:
    """Refuse names of policies that do not exist.

    Raises:
        InputError: there is none of a name.
    """
    for name in names:
        if name not in _HOME:
            raise InputError(f"unknown policy {name!r}: expected some of {', '.join(POLICIES)}")
