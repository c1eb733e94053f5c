"""Ridge regressions of many targets on the same texts, all by one matrix of inner products."""

from typing import Any

import numpy as np

from ptmo_secure.offload.actions import Floats

_DENSE = 1 / 20  # a slot that this share of the texts has is multiplied as a dense column
_BLOCK = 1024  # rows of the sparse product at a time, so that it stays small


class Gram:
    """Ridge regression with a free level in its dual form, for few texts of many slots.

        (K + penalty I) A = Y - mean(Y),  K = Xc Xc^T,  slopes = X^T A

    with Xc the centred vectors. K costs the same for 2 targets as for 60, and a solution is exact
    up to float32, where a search by conjugate gradients goes through X again for each target.

    Args:
        vectors: [texts, slots], sparse; at most some ten thousand texts, whose K takes 4 texts^2
            bytes.
    """

    def __init__(self, vectors: Any) -> None:
        self._vectors = vectors.astype(np.float32).tocsr()
        rows, slots = self._vectors.shape
        frequent = np.bincount(self._vectors.indices, minlength=slots) > _DENSE * rows
        dense = self._vectors[:, np.flatnonzero(frequent)].toarray()
        product = dense @ dense.T
        rare = self._vectors[:, np.flatnonzero(~frequent)].tocsr()
        across = rare.T.tocsr()
        for start in range(0, rows, _BLOCK):
            product[start : start + _BLOCK] += (rare[start : start + _BLOCK] @ across).toarray()
        mean = product.mean(axis=0)
        product -= mean
        product -= (mean - mean.mean())[:, None]
        self._product = product
        self._mean = np.asarray(self._vectors.mean(axis=0), dtype=np.float64).ravel()

    def ridge(self, targets: Floats, penalty: float) -> tuple[Floats, Floats]:
        """Fit all targets.

        Args:
            targets: [texts, targets].
            penalty: above 0.

        Returns:
            Slopes, [slots, targets], and the level of each target, [targets].
        """
        from scipy import linalg

        solver: Any = linalg  # no stubs

        raised = self._product.copy()
        raised.flat[:: len(raised) + 1] += penalty
        middle = targets.mean(axis=0)
        factor = solver.cho_factor(raised, lower=True, overwrite_a=True, check_finite=False)
        weights = solver.cho_solve(
            factor, (targets - middle).astype(np.float32), check_finite=False
        )
        slopes = np.asarray(self._vectors.T @ weights, dtype=np.float64)
        return slopes, np.asarray(middle - self._mean @ slopes)
