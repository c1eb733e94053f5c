"""Boosted regression trees as tables of numbers: scikit-learn grows them, NumPy alone asks them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.offload.actions import Floats

TREES, RATE, LEAVES, LEAST = 150, 0.03, 8, 60
"""Trees, share that each one corrects, leaves of a tree at most, rows of a leaf at least."""

_LEAF = -1  # scikit-learn's child of a leaf


class BoostedTrees:
    """f(x) = level + 0.03 sum over 150 trees of the value of the leaf that x falls into.

    scikit-learn's own `predict` takes 2 ms for one question, a path through these tables 0.1 ms.

    Args:
        inputs: [rows, features], finite.
        targets: [rows], at least one.
    """

    def __init__(self, inputs: Floats, targets: Floats) -> None:
        from sklearn import ensemble

        boosting: Any = ensemble.GradientBoostingRegressor  # no stubs
        self.level = float(np.mean(targets))
        grown = boosting(
            n_estimators=TREES,
            learning_rate=RATE,
            max_depth=None,
            max_leaf_nodes=LEAVES,
            min_samples_leaf=LEAST,
            init="zero",
            random_state=0,
        )
        grown.fit(inputs, np.asarray(targets) - self.level)
        trees = [one.tree_ for one in grown.estimators_[:, 0]]
        shape = len(trees), max(tree.node_count for tree in trees)
        self._feature = np.zeros(shape, np.int64)
        self._threshold, self._value = np.zeros(shape), np.zeros(shape)
        self._next = np.zeros((2, *shape), np.int64)
        self._depth = max(int(tree.max_depth) for tree in trees)
        for number, tree in enumerate(trees):
            self._enter(number, tree)

    def _enter(self, number: int, tree: Any) -> None:
        """A leaf leads to itself, so that all paths are equally long."""
        own = np.arange(tree.node_count)
        leaf = tree.children_left == _LEAF
        places = number, slice(tree.node_count)
        self._feature[places] = np.where(leaf, 0, tree.feature)
        self._threshold[places] = tree.threshold
        self._value[places] = RATE * tree.value[:, 0, 0]
        for side, children in enumerate((tree.children_left, tree.children_right)):
            self._next[side][places] = np.where(leaf, own, children)

    def predict(self, inputs: Floats) -> Floats:
        """Return f, [rows].

        Args:
            inputs: [rows, features].
        """
        known = inputs.astype(np.float32)  # as the trees were grown
        rows, trees = np.arange(len(known))[:, None], np.arange(len(self._feature))[None, :]
        node: NDArray[np.int64] = np.zeros((len(known), len(self._feature)), np.int64)
        for _ in range(self._depth):
            beyond = known[rows, self._feature[trees, node]] > self._threshold[trees, node]
            node = self._next[beyond.astype(np.int64), trees, node]
        return np.asarray(self.level + self._value[trees, node].sum(axis=1))
