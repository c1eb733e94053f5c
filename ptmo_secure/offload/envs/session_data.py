"""Sessions made of real questions: who asks, what private things slip in, how long answers are.

Questions and scores are real, from an outcome table; personas, lengths of answers and what a
self-check says of a local answer are drawn with a seed, by the rates that stand here.
"""

from dataclasses import dataclass

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats, Piece
from ptmo_secure.offload.outcomes import OutcomeTable, count_tokens
from ptmo_secure.types import Level

TURNS = (2, 8)
SAME_TOPIC = 0.7
"""Chance that a turn stays with the topic of its session."""

PERSONA_RATE, SEMI_RATE, SECRET_RATE, PRIVATE_RATE = 0.6, 0.4, 0.08, 0.06
"""Sessions with a persona; and there, turns with its details, with a secret, private altogether."""

CHECK = (0.8, 0.25)
"""Assumed: the self-check doubts this share of the wrong local answers, and of the right ones."""

ANSWER_MEDIAN, ANSWER_SPREAD, ANSWER_RANGE = 120.0, 0.6, (8, 512)
"""Assumed: lengths of answers are log-normal tokens."""

STICKY_TURNS = 2
NAME, CITY, FIRM = 1, 2, 4
PERSONAS = (
    # what is said along with a question, and which private values that holds
    ("I am {name} from {city}.", NAME | CITY),
    ("For {name}, who goes to school in {city}:", NAME | CITY),
    ("I work for {firm} as an accountant.", FIRM),
    ("I am {name}, and {firm} wants to know.", NAME | FIRM),
)
SECRETS = ("My password is {secret}.", "My card number is {secret}.")
_NAMES = ("Mira Holm", "Jonas Petit", "Aiko Tan", "Samuel Ortiz", "Lena Vogt", "Omar Haddad")
_CITIES = ("Aalborg", "Girona", "Leeds", "Graz", "Tampere", "Busan")
_FIRMS = ("Norwind", "Castell", "Brightleaf", "Ostara")


@dataclass(frozen=True, slots=True)
class SessionTurn:
    """One turn before anyone acts.

    Args:
        row: of the question in the table.
        text: what the user typed, persona and all.
        question: the part of it that comes from the table, as the decomposer leaves it.
        pieces: its parts; the question is the last one.
        values: private values in it, as bits; the same value of a session has the same bit.
        sticky: whether a PRIVATE turn lies close behind.
        prompt, answer: tokens.
        scores: the local and the cloud model's, [2].
        doubted: whether the self-check sends the local answer on.
    """

    row: int
    text: str
    question: str
    pieces: tuple[Piece, ...]
    values: int
    sticky: bool
    prompt: int
    answer: int
    scores: Floats
    doubted: bool

    @property
    def holds_secret(self) -> bool:
        """Whether some piece of it is PRIVATE."""
        return any(piece.level is Level.PRIVATE for piece in self.pieces)


def make_sessions(
    table: OutcomeTable, count: int, rng: np.random.Generator
) -> list[tuple[SessionTurn, ...]]:
    """Draw sessions from a table; a question may come again in another session.

    Raises:
        InputError: no session is wanted, or the table is empty.
    """
    if count < 1 or not table.questions:
        raise InputError(f"{count} sessions of {len(table.questions)} questions: at least one each")
    rows_of: dict[str, list[int]] = {}
    for row, group in enumerate(table.groups):
        rows_of.setdefault(group, []).append(row)
    return [_session(table, rows_of, rng) for _ in range(count)]


def _session(
    table: OutcomeTable, rows_of: dict[str, list[int]], rng: np.random.Generator
) -> tuple[SessionTurn, ...]:
    topic = table.groups[int(rng.integers(len(table.groups)))]  # large topics come more often
    persona = rng.random() < PERSONA_RATE
    name, city, firm = (words[int(rng.integers(len(words)))] for words in (_NAMES, _CITIES, _FIRMS))
    turns: list[SessionTurn] = []
    last_secret = -STICKY_TURNS - 1
    for number in range(int(rng.integers(TURNS[0], TURNS[1] + 1))):
        same = rng.random() < SAME_TOPIC
        rows = rows_of[topic] if same else range(len(table.questions))
        row = int(rows[int(rng.integers(len(rows)))])
        question = table.questions[row]
        kind, draw = "public", rng.random()
        if persona:
            bounds = np.cumsum([PRIVATE_RATE, SECRET_RATE, SEMI_RATE])
            kind = ("private", "secret", "semi", "public")[int(np.searchsorted(bounds, draw))]
        said, level, values = "", Level.PUBLIC, 0
        if kind == "semi":
            which = int(rng.integers(len(PERSONAS)))
            template, values = PERSONAS[which]
            said = template.format(name=name, city=city, firm=firm)
            level = Level.SEMI_SENSITIVE
        elif kind == "secret":
            which = int(rng.integers(len(SECRETS)))
            said = SECRETS[which].format(secret=f"{rng.integers(10**8):08d}")
            level = Level.PRIVATE
        own = Level.PRIVATE if kind == "private" else Level.PUBLIC
        pieces: tuple[Piece, ...] = (Piece(own, count_tokens(question)),)
        if said:
            pieces = (Piece(level, count_tokens(said), values.bit_count()), *pieces)
        right = float(table.scores[row, 0])
        doubt = CHECK[1] * right + CHECK[0] * (1 - right)
        length = ANSWER_MEDIAN * np.exp(ANSWER_SPREAD * rng.standard_normal())
        turns.append(
            SessionTurn(
                row=row,
                text=f"{said} {question}".strip(),
                question=question,
                pieces=pieces,
                values=values,
                sticky=number - last_secret <= STICKY_TURNS,
                prompt=sum(piece.tokens for piece in pieces),
                answer=int(np.clip(length, *ANSWER_RANGE)),
                scores=table.scores[row],
                doubted=bool(rng.random() < doubt),
            )
        )
        if kind in ("private", "secret"):
            last_secret = number
    return tuple(turns)
