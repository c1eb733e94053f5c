"""Sessions: what couples their turns, and that the planner finds the best course."""

import itertools
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.offload import synthetic
from ptmo_secure.offload.actions import ENERGY, LATENCY, RISK, USD
from ptmo_secure.offload.envs import session_model
from ptmo_secure.offload.envs.session_data import SessionTurn
from ptmo_secure.offload.envs.session_model import (
    CLOUD,
    ESCALATE,
    HYBRID,
    LOCAL,
    MASKED,
    Past,
    States,
)
from ptmo_secure.offload.envs.sessions import SessionConfig, SessionsEnv
from ptmo_secure.offload.policies.greedy import MaskedGreedy
from ptmo_secure.offload.policies.oracles import ConstrainedOracle, QueryOracle
from ptmo_secure.offload.reward import RewardWeights
from ptmo_secure.offload.rollout import mean_reward, run_episode
from ptmo_secure.types import Level

WORLD = SessionConfig().world()
FULL = WORLD.device.battery_j
Piece = session_model.Piece


@pytest.fixture(scope="module")
def table():
    return synthetic.question_table(150)


@pytest.fixture(scope="module")
def env(table):
    return SessionsEnv(table, "test", 1, config=SessionConfig(sessions=40))


def turn(*levels, values=0, doubted=True, scores=(0.0, 1.0), sticky=False):
    pieces = tuple(Piece(level, 10) for level in levels or (Level.PUBLIC,))
    tokens = 10 * len(pieces)
    text = ("q", "q")
    return SessionTurn(0, *text, pieces, values, sticky, tokens, 100, np.array(scores), doubted)


def states(*, battery=FULL, local=0.0, cloud=0.0, known=0):
    return States(
        np.full((1, 4), np.inf),
        np.array([battery]),
        np.array([local]),
        np.array([cloud]),
        np.array([known]),
    )


def costs(a_turn, past=None, *, doubted=True, **state):
    return WORLD.costs(a_turn, past or Past(), states(**state), doubted=doubted)[0]


def test_a_local_answer_takes_its_tokens_over_the_measured_rates():
    cost = costs(turn())[LOCAL]
    seconds = 10 / WORLD.device.prefill_tps + 100 / WORLD.device.decode_tps
    assert cost[LATENCY] == pytest.approx(seconds)
    assert cost[ENERGY] == pytest.approx(seconds * WORLD.device.watts)
    assert (cost[USD], cost[RISK]) == (0, 0)


def test_a_cloud_answer_is_priced_by_its_tokens_and_a_cached_history_costs_half():
    past = Past(400, 400)
    cold, warm = costs(turn(), past)[CLOUD], costs(turn(), past, cloud=400.0)[CLOUD]
    assert cold[USD] == pytest.approx(410 * 2.5e-6 + 100 * 1e-5)
    assert cold[USD] - warm[USD] == pytest.approx(0.5 * 400 * 2.5e-6)


def test_a_cold_local_cache_has_to_read_the_conversation_first():
    past = Past(620, 620)
    cold, warm = costs(turn(), past)[LOCAL], costs(turn(), past, local=620.0)[LOCAL]
    assert cold[LATENCY] - warm[LATENCY] == pytest.approx(620 / WORLD.device.prefill_tps)


def test_a_low_battery_halves_the_speed_and_not_the_energy():
    high, low = costs(turn())[LOCAL], costs(turn(), battery=0.19 * FULL)[LOCAL]
    assert low[LATENCY] == pytest.approx(2 * high[LATENCY])
    assert low[ENERGY] == pytest.approx(high[ENERGY])


def test_a_value_is_risked_once_and_costs_quality_once():
    private = turn(Level.SEMI_SENSITIVE, values=3)
    first, again = costs(private)[MASKED], costs(private, known=3)[MASKED]
    assert first[RISK] - again[RISK] == pytest.approx(2 * session_model.VALUE_RISK)
    fresh = session_model.retained(private, states())[0, MASKED]
    known = session_model.retained(private, states(known=3))[0, MASKED]
    assert fresh == pytest.approx(known * session_model.VALUE_KEEPS**2)
    assert costs(private)[CLOUD][RISK] > 2  # raw, each value is given away


def test_an_escalation_that_is_not_doubted_costs_and_scores_what_local_does():
    calm = turn(doubted=False, scores=(1.0, 1.0))
    cost = costs(calm, doubted=False)
    assert cost[ESCALATE].tolist() == cost[LOCAL].tolist()
    quality = session_model.true_quality(calm, session_model.retained(calm, states()))[0]
    assert quality[ESCALATE] == quality[LOCAL] == 1
    most = costs(calm, doubted=True)
    assert (most[ESCALATE] >= cost[ESCALATE]).all() and most[ESCALATE, USD] > 0


def test_hybrid_sends_fewer_tokens_where_a_piece_stays():
    mixed = turn(Level.PRIVATE, Level.PUBLIC)
    assert costs(mixed)[HYBRID, USD] < costs(mixed)[MASKED, USD]
    kept = session_model.retained(mixed, states())[0, HYBRID]
    assert kept == pytest.approx(session_model.MASK_KEEPS * session_model.SECRET_KEEPS)


def test_a_turn_with_a_secret_is_told_to_no_cloud_later():
    past = Past().after(turn()).after(turn(Level.PRIVATE, Level.PUBLIC)).after(turn())
    assert past.tokens == 110 + 120 + 110
    assert past.sendable == 110 + 110
    assert [piece.level for piece in past.pieces] == [Level.PUBLIC] * 2


def test_a_step_that_may_not_be_taken_changes_nothing(env):
    for episode in range(env.episodes):
        env.reset(options={"episode": episode})
        if env.turn.holds_secret:
            break
    before = env.view().remaining.copy()
    with pytest.raises(SecurityError, match="PRIVATE piece may not leave"):
        env.step(CLOUD)
    assert (env.view().remaining == before).all()


def test_the_splits_share_no_question(table):
    train, test = (SessionsEnv(table, split, 1) for split in ("train", "test"))
    asked = [{turn.question for turns in e.sessions for turn in turns} for e in (train, test)]
    assert asked[0] and asked[1] and not asked[0] & asked[1]
    assert {row.text for row in train.training_rows()}.isdisjoint(asked[1])


def test_a_seed_makes_the_same_sessions_and_another_one_others(table):
    first, again, other = (SessionsEnv(table, "test", seed) for seed in (1, 1, 2))
    texts = [[t.text for turns in e.sessions for t in turns] for e in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_sessions_hold_every_level_and_stay_with_their_topic(table):
    sessions = SessionsEnv(table, "train", 1).sessions
    turns = [turn for session in sessions for turn in session]
    assert {len(session) for session in sessions} == set(range(2, 9))
    assert {piece.level for turn in turns for piece in turn.pieces} == set(Level)
    assert any(turn.sticky for turn in turns) and any(turn.values for turn in turns)
    same = [
        table.groups[table.questions.index(a.question)]
        == table.groups[table.questions.index(b.question)]
        for session in sessions
        for a, b in itertools.pairwise(session)
    ]
    assert np.mean(same) > 0.4  # six topics: a sixth by chance


def test_gymnasium_accepts_the_environment(table):
    made = gym.make("ptmo/Sessions-v0", table=table, config=SessionConfig(sessions=20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*render")
        # Its random actions may be ones that the environment refuses: only local here.
        made.unwrapped.action_space = gym.spaces.Discrete(1)
        check_env(made.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("budget", [(0.3, 0.05), (0.7, 0.02), (np.inf, np.inf), (0.0, 0.0)])
def test_the_plan_is_the_best_of_all_courses(table, budget):
    config = SessionConfig(
        sessions=30, weights=RewardWeights(beta2=0.2, beta3=0.1, gamma=0.3), battery=(0.2, 0.21)
    )
    env = SessionsEnv(table, "test", 2, budget, config)
    chosen = [n for n, turns in enumerate(env.sessions) if len(turns) in (3, 4)][:4]
    for episode in chosen:
        best = -np.inf
        for course in itertools.product(range(5), repeat=len(env.sessions[episode])):
            env.reset(options={"episode": episode})
            total = 0.0
            for action in course:
                if not env.action_masks()[action]:
                    break
                total += env.step(action)[1]
            else:
                best = max(best, total)
        env.reset(options={"episode": episode})
        assert sum(env.step(action)[1] for action in env.plan()) == pytest.approx(best)


def test_the_oracles_stand_in_order_and_nobody_exceeds_a_budget(env):
    env.set_budget((0.4, 0.05))
    earned = [mean_reward(env, p(1), 40) for p in (MaskedGreedy, QueryOracle, ConstrainedOracle)]
    assert earned[0] < earned[1] < earned[2]
    for policy in (MaskedGreedy(), ConstrainedOracle()):
        assert not any(run_episode(env, policy, n).over_budget for n in range(env.episodes))


def test_more_budget_never_makes_the_best_course_worse(env):
    earned = []
    for share in (0.0, 0.25, 0.5, 1.0):
        env.set_budget((share, 0.1))
        earned.append(mean_reward(env, ConstrainedOracle(), 40))
    assert earned == sorted(earned) and earned[0] < earned[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "dev"}, "split 'dev'"),
        ({"config": lambda: SessionConfig(device="abacus")}, "device 'abacus'"),
        ({"config": lambda: SessionConfig(sessions=0)}, "0 sessions"),
        ({"config": lambda: SessionConfig(battery=(0.5, 0.1))}, "battery"),
    ],
)
def test_a_wrong_argument_is_named(table, arguments, words):
    with pytest.raises(InputError, match=words):
        SessionsEnv(table, **{k: v() if callable(v) else v for k, v in arguments.items()})
