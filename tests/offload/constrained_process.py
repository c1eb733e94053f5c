"""A constrained decision process small enough for a linear programme, as an environment too."""

import gymnasium as gym
import numpy as np
from scipy.optimize import linprog

from ptmo_secure.offload.rl.features import Layout

STATES, ACTIONS, STEPS = 3, 3, 4
REWARD = np.array([[0.1, 0.7, 1.0], [0.2, 0.5, 0.6], [0.0, 0.9, 1.4]])
COST = np.array([[0.0, 0.5, 1.2], [0.0, 0.4, 0.9], [0.0, 0.7, 1.5]])
NEXT = np.zeros((STATES, ACTIONS, STATES))
for _state in range(STATES):
    for _action in range(ACTIONS):
        NEXT[_state, _action] = 0.2
        NEXT[_state, _action, (_state + _action) % STATES] += 0.4
FIRST = np.array([0.5, 0.3, 0.2])
RESOURCE = 1  # dollars
LAYOUT = Layout(STATES + STEPS, ACTIONS)


def optimum(limit):
    """Reward of an episode, its cost, and the multiplier of cost / limit, by occupancy measures."""
    shape = (STEPS, STATES, ACTIONS)
    size = int(np.prod(shape))
    rows, right = [], []
    for step in range(STEPS):
        for state in range(STATES):
            row = np.zeros(shape)
            row[step, state] = 1.0
            if step:
                row[step - 1] -= NEXT[:, :, state]
            rows.append(row.ravel())
            right.append(0.0 if step else FIRST[state])
    spent = np.tile(COST, (STEPS, 1, 1)).ravel()
    found = linprog(
        -np.tile(REWARD, (STEPS, 1, 1)).ravel(),
        A_ub=spent[None],
        b_ub=[limit],
        A_eq=np.array(rows),
        b_eq=right,
        bounds=[(0, None)] * size,
    )
    return -found.fun, float(spent @ found.x), float(-found.ineqlin.marginals[0] * limit)


def best_response(price):
    """Reward and cost of an episode of the policy that is best for reward - price * cost."""
    ahead = np.zeros(STATES)
    choices = []
    for _ in range(STEPS):
        value = REWARD - price * COST + NEXT @ ahead
        choices.append(value.argmax(axis=1))
        ahead = value.max(axis=1)
    where, reward, cost = FIRST.copy(), 0.0, 0.0
    for choice in reversed(choices):
        rows = np.arange(STATES)
        reward += float(where @ REWARD[rows, choice])
        cost += float(where @ COST[rows, choice])
        where = where @ NEXT[rows, choice]
    return reward, cost


class SmallCmdp(gym.Env):
    """The process as an environment; an observation is a vector of `LAYOUT`, and costs are known.

    Args:
        limit: of the cost of an episode, its unit.
        forbidden: actions that the mask forbids.
    """

    def __init__(self, limit, forbidden=()):
        self.unit, self.forbidden = limit if np.isfinite(limit) else 1.0, forbidden
        self.observation_space = gym.spaces.Box(0.0, np.inf, (LAYOUT.size,), np.float32)
        self.action_space = gym.spaces.Discrete(ACTIONS)
        self.prices = np.zeros(4)
        self._state, self._step, self._shown = 0, 0, self.prices

    def show(self, prices):
        self.prices = prices.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._state, self._step = int(self.np_random.choice(STATES, p=FIRST)), 0
        self._shown = self.prices
        return self._observation(), {}

    def step(self, action):
        reward, cost = REWARD[self._state, action], np.zeros(4)
        assert int(action) not in self.forbidden
        cost[RESOURCE] = COST[self._state, action]
        self._state = int(self.np_random.choice(STATES, p=NEXT[self._state, action]))
        self._step += 1
        done = self._step == STEPS
        return self._observation(), float(reward), done, False, {"cost": cost}

    def action_masks(self):
        return np.array([action not in self.forbidden for action in range(ACTIONS)])

    def _observation(self):
        seen = np.zeros(LAYOUT.size, np.float32)
        seen[self._state] = 1
        if self._step < STEPS:
            seen[STATES + self._step] = 1
        known = np.zeros((5, ACTIONS))
        known[1 + RESOURCE] = COST[self._state] / self.unit
        seen[LAYOUT.known] = known.ravel()
        seen[LAYOUT.mask], seen[LAYOUT.prices] = self.action_masks(), self._shown
        return seen
