"""PRIVATE pieces are never sent to the cloud: by no policy, in no state."""

import numpy as np
import pytest
from quick_policies import HERE, quick_policy

from ptmo_secure.offload import gate, synthetic
from ptmo_secure.offload.actions import Action, Kind, Piece, View
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.policies.base import Policy
from ptmo_secure.types import Level

STATES = 1_000_000
ACTIONS = tuple(Action(kind) for kind in Kind)
LEVELS = tuple(Level)
ARMS = np.array([0, 1, 1, 1, 1])
NUMBERS = np.array([0.0, -1.0, 1e-9, 0.3, 1.0, 40.0, 1e9, np.inf, np.nan])


class Wanting(Policy):
    """Wants one action whatever the mask says; some of them are no actions at all."""

    name = "wanting"

    def __init__(self, wanted):
        super().__init__(0)
        self.wanted = wanted

    def choose(self, view, mask):
        mask[:] = True
        return self.wanted


class RandomTruth:
    """Tells an oracle anything."""

    def __init__(self, rng):
        self.rng = rng

    def quality(self):
        return self.rng.choice(NUMBERS, 5)

    def rest(self):
        return self.rng.choice(NUMBERS, 5)

    def plan(self):
        return (int(self.rng.integers(-2, 7)),)


@pytest.fixture(scope="module")
def policies():
    """All of them, fitted on a small table; and some that mean harm."""
    train = SessionsEnv(synthetic.question_table(120), config=SessionConfig(sessions=10))
    fitted = [quick_policy(name, 7) for name in HERE]
    for policy in fitted:
        policy.fit(train)
    return [*fitted, *(Wanting(action) for action in (1, 2, 3, 4, -1, 5, None, np.nan))]


def random_view(rng, texts):
    count = int(rng.integers(0, 4))
    pieces = tuple(
        Piece(LEVELS[level], int(rng.integers(1, 50)), int(rng.integers(0, 3)))
        for level in rng.integers(0, 3, count)
    )
    return View(
        text=texts[int(rng.integers(len(texts)))],
        observation=np.zeros(27, np.float32),
        actions=ACTIONS,
        pieces=pieces,
        sticky=bool(rng.random() < 0.3),
        cost=rng.choice(NUMBERS, (5, 4)),
        remaining=rng.choice(NUMBERS, 4),
        arm=ARMS,
        retained=rng.random(5),
        rest=rng.choice(NUMBERS, 5),
        alpha=1.0,
        estimate=rng.choice(NUMBERS, 5),
        check=(0.8, 0.25),
        features=rng.choice(NUMBERS, 7),
        history=tuple(rng.choice(texts, int(rng.integers(0, 4)))),
    )


def private_pieces_sent(policies, states, seed):
    """Play one policy after the other in random states; count what leaves, and what could have."""
    rng = np.random.default_rng(seed)
    texts = synthetic.question_table(40).questions
    truth = RandomTruth(rng)
    sent = cloud = risky = 0
    with np.errstate(all="ignore"):
        for number in range(states):
            policy, view = policies[number % len(policies)], random_view(rng, texts)
            policy.begin(truth if policy.needs_truth else None)
            decision = gate.decide(view, policy.choose)
            gone = gate.sent(view.actions[decision.action], view.pieces)
            sent += sum(piece.level is Level.PRIVATE for piece in gone)
            cloud += bool(gone)
            risky += any(piece.level is Level.PRIVATE for piece in view.pieces)
            raw = view.actions[decision.action].kind is Kind.CLOUD
            assert not (raw and view.sticky)
    return sent, cloud, risky


def test_no_policy_sends_a_private_piece_in_a_sample_of_the_states(policies):
    sent, cloud, risky = private_pieces_sent(policies, STATES // 50, seed=1)
    assert sent == 0
    assert cloud > STATES // 50 // 20 and risky > STATES // 50 // 3  # the test could have failed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_policy_sends_a_private_piece_in_a_million_states(policies):
    sent, cloud, _ = private_pieces_sent(policies, STATES, seed=2)
    assert sent == 0
    assert cloud > STATES // 20


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_what_a_session_sends_with_its_history_holds_nothing_private(wanted):
    env = SessionsEnv(
        synthetic.question_table(120), "test", 3, (9.0, 9.0), SessionConfig(sessions=60)
    )
    calls = secrets = 0
    for episode in range(env.episodes):
        env.reset(options={"episode": episode})
        behind, done = [], False
        while not done:
            turn = env.turn
            decision = gate.decide(env.view(), lambda view, mask: wanted)
            *_, done, _, info = env.step(decision.action)
            assert all(piece.level is not Level.PRIVATE for piece in info["sent"])
            if info["sent"]:
                own = gate.sent(env.actions[decision.action], turn.pieces)
                assert info["sent"] == (*behind, *own)
                calls += 1
            secrets += turn.holds_secret
            if not turn.holds_secret:
                behind += turn.pieces
    assert calls > 50 and secrets > 10
