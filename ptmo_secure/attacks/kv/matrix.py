"""Attacks x shields: capture under every shield, run every attack, score each pair."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from ptmo_secure.attacks.kv.attacks import Attack, KnownSession, Loot, dictionary_attacks
from ptmo_secure.attacks.kv.capture import Capture, Target, capture_prompts, load_prompts
from ptmo_secure.attacks.kv.keystream import KeystreamReuseAttack
from ptmo_secure.attacks.kv.pages import ELEMENT_DTYPES, IdArray
from ptmo_secure.attacks.kv.public_model import PublicModel, WeightSource
from ptmo_secure.attacks.kv.statistics import score
from ptmo_secure.errors import InputError

SHIELDS = ("none", "permute", "seal", "permute+seal")
RESTORES = ("folded", "tee")
EXCERPT_CHARS = 240
DEFAULT_SEED = 20240904  # of the control's shuffle


@dataclass(frozen=True, slots=True)
class Cell:
    """One configuration of the victim's engine.

    `restore` is None where the shield has no permutation to undo; load such an engine with its
    default.
    """

    shield: str
    restore: str | None
    kv_dtype: str

    @property
    def label(self) -> str:
        """Short name for progress lines."""
        parts = (self.shield, self.restore, self.kv_dtype)
        return " ".join(part for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One attack on one configuration. The fields are the keys of the JSON, in order."""

    shield: str
    restore: str | None
    kv_dtype: str
    attack: str
    attacker: str
    layer: int
    tokens: int
    top1: float
    ci95: tuple[float, float]
    control_top1: float
    chance: float
    seconds: float  # dictionary and matching, as if run alone
    reconstructed: str  # excerpt: the guesses at the user's positions, prompts in order
    true_text: str  # the same stretch of the truth
    distinct_ids: int
    top1_positions: float
    ids_anywhere: float
    prompts: int
    vocab_size: int
    best: bool  # the best attack on this configuration: the shield's verdict

    def as_json(self) -> dict[str, object]:
        """A JSON object with `ci95` as [low, high]."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "ci95": list(self.ci95)}


EngineFactory = Callable[[Cell], AbstractContextManager[Target]]
Progress = Callable[[int, int, str], None]  # steps done, steps in all, what is being done


def default_attacks() -> tuple[Attack, ...]:
    """Every attack on the KV cache that the project has."""
    return (*dictionary_attacks(), KeystreamReuseAttack())


def plan_cells(
    shields: Sequence[str],
    kv_dtypes: Sequence[str] = ("int8",),
    restores: Sequence[str] = RESTORES,
) -> list[Cell]:
    """The configurations to attack.

    `permute` is taken once per restore, `permute+seal` with the first restore only.

    Raises:
        InputError: an unknown shield, kv_dtype or restore, or none at all.
    """
    known = {
        "shield": (shields, SHIELDS),
        "kv_dtype": (kv_dtypes, tuple(ELEMENT_DTYPES)),
        "restore": (restores, RESTORES),
    }
    for kind, (values, allowed) in known.items():
        if not values:
            raise InputError(f"no {kind} given; choose from {', '.join(allowed)}")
        for value in values:
            if value not in allowed:
                raise InputError(f"unknown {kind} {value!r}; choose from {', '.join(allowed)}")
    modes: dict[str, Sequence[str | None]] = {"permute": restores, "permute+seal": restores[:1]}
    return [
        Cell(shield, restore, kv_dtype)
        for kv_dtype in kv_dtypes
        for shield in dict.fromkeys(shields)
        for restore in modes.get(shield, (None,))
    ]


def run(
    engine_factory: EngineFactory,
    model: PublicModel | WeightSource,
    shields: Sequence[str] = SHIELDS,
    attacks: Sequence[Attack] | None = None,
    prompts: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    kv_dtypes: Sequence[str] = ("int8",),
    restores: Sequence[str] = RESTORES,
    seed: int = DEFAULT_SEED,
) -> list[ResultRow]:
    """Attack every shield and score what comes back.

    Args:
        engine_factory: opens the victim's engine for a cell.
        model: the public model, read from the same file or a copy of it.
        shields: any of `SHIELDS`.
        attacks: `default_attacks()` when None.
        prompts: user messages; the project's own set when None.
        progress: called before each step and once at the end.
        kv_dtypes: any of "int8", "fp16", "fp32".
        restores: how `permute` undoes its permutation: "folded", "tee".
        seed: of the control's shuffle.
    Returns:
        One row per (configuration, attack that applies), in that order.
    Raises:
        InputError: an unknown name, or no prompt.
    """
    public = model if isinstance(model, PublicModel) else PublicModel(model)
    attacks = default_attacks() if attacks is None else tuple(attacks)
    own = load_prompts()
    prompts = own.prompts if prompts is None else tuple(prompts)
    if not prompts:
        raise InputError("no prompt to attack")
    cells = plan_cells(shields, kv_dtypes, restores)
    steps = _Steps(progress)
    steps.total = sum(
        len(prompts) + sum(attack.applies_to(cell.shield) for attack in attacks) for cell in cells
    )
    rows: list[ResultRow] = []
    for cell in cells:
        chosen = [attack for attack in attacks if attack.applies_to(cell.shield)]
        with engine_factory(cell) as engine:
            steps.label = f"{cell.label}: running the prompts"
            captured = capture_prompts(engine, prompts, steps.step)
            known: tuple[KnownSession, ...] = ()
            if any(attack.attacker.has_known_text for attack in chosen):
                known = _known_sessions(capture_prompts(engine, [own.chosen_text]))
            scored = []
            for attack in chosen:
                steps.label = f"{cell.label}: {attack.name}"
                loot = Loot(captured.stolen, known if attack.attacker.has_known_text else ())
                scored.append(_attack_row(cell, attack, loot, captured, public, engine, seed))
                steps.step()
        rows.extend(mark_best(scored))
    steps.label = "done"
    steps.show()
    return rows


class _Steps:
    """Counts steps for a progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.done = 0
        self.total = 0
        self.label = ""

    def show(self) -> None:
        if self._progress is not None:
            self._progress(self.done, self.total, self.label)

    def step(self) -> None:
        self.done += 1
        self.show()


def _known_sessions(capture: Capture) -> tuple[KnownSession, ...]:
    return tuple(
        KnownSession(stolen, truth.token_ids)
        for stolen, truth in zip(capture.stolen, capture.truth, strict=True)
    )


def _attack_row(
    cell: Cell,
    attack: Attack,
    loot: Loot,
    captured: Capture,
    model: PublicModel,
    engine: Target,
    seed: int,
) -> ResultRow:
    before = model.build_seconds
    started = time.perf_counter()
    guesses = attack.run(loot, model)
    elapsed = time.perf_counter() - started
    if before:  # the dictionary was built by an earlier attack; this one needs it as much
        elapsed += before
    result = score(guesses, captured.truth, model.vocab_size, seed)
    truth_ids = [session.token_ids for session in captured.truth]
    return ResultRow(
        shield=cell.shield,
        restore=cell.restore,
        kv_dtype=cell.kv_dtype,
        attack=attack.name,
        attacker=attack.attacker.value,
        layer=attack.layer,
        tokens=result.tokens,
        top1=result.top1,
        ci95=result.ci95,
        control_top1=result.control_top1,
        chance=result.chance,
        seconds=elapsed,
        reconstructed=_excerpt(guesses, captured, engine),
        true_text=_excerpt(truth_ids, captured, engine),
        distinct_ids=result.distinct_ids,
        top1_positions=result.top1_positions,
        ids_anywhere=result.ids_anywhere,
        prompts=len(captured.truth),
        vocab_size=model.vocab_size,
        best=False,
    )


def _excerpt(guesses: Sequence[IdArray], captured: Capture, engine: Target) -> str:
    """Text of the first prompt at the user's positions, cut to `EXCERPT_CHARS`."""
    ids = guesses[0][captured.truth[0].scored]
    return engine.tokenizer.decode([int(i) for i in ids])[:EXCERPT_CHARS]


def mark_best(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Mark the attack with the highest `top1` (then `top1_positions`, then the first)."""
    if not rows:
        return []
    rates = [(row.top1, row.top1_positions) for row in rows]
    winner = rates.index(max(rates))
    return [replace(row, best=i == winner) for i, row in enumerate(rows)]
