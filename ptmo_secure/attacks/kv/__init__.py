"""Attacks on a KV cache in memory: what a thief of its pages reads, per shield.

`matrix.run` captures the pages of an engine under each shield and runs every attack on them. An
attack sees a `Loot` (bytes and their public layout) and a `PublicModel` (a model file), no more.
"""

from ptmo_secure.attacks.kv.attackers import Attacker
from ptmo_secure.attacks.kv.attacks import (
    Attack,
    DictionaryAttack,
    KnownSession,
    Loot,
    View,
    dictionary_attacks,
)
from ptmo_secure.attacks.kv.capture import Capture, PromptSet, capture_prompts, load_prompts
from ptmo_secure.attacks.kv.keystream import KeystreamReuseAttack
from ptmo_secure.attacks.kv.matrix import SHIELDS, Cell, ResultRow, default_attacks, plan_cells, run
from ptmo_secure.attacks.kv.pages import PageLayout, SessionRows, StolenMemory, read_sessions
from ptmo_secure.attacks.kv.public_model import PublicModel
from ptmo_secure.attacks.kv.statistics import Score, ScoredSession, score
from ptmo_secure.intervals import clopper_pearson

__all__ = [
    "SHIELDS",
    "Attack",
    "Attacker",
    "Capture",
    "Cell",
    "DictionaryAttack",
    "KeystreamReuseAttack",
    "KnownSession",
    "Loot",
    "PageLayout",
    "PromptSet",
    "PublicModel",
    "ResultRow",
    "Score",
    "ScoredSession",
    "SessionRows",
    "StolenMemory",
    "View",
    "capture_prompts",
    "clopper_pearson",
    "default_attacks",
    "dictionary_attacks",
    "load_prompts",
    "plan_cells",
    "read_sessions",
    "run",
    "score",
]
