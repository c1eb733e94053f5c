"""Predicts from a question's words what each model will score: TF-IDF and ridge regression."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptmo_secure.offload.actions import Floats

NGRAMS = (1, 2)
RIDGE = 10.0


class Words:
    """TF-IDF of words and word pairs, sublinear in the counts.

    Args:
        texts: whose words are known; a text that comes twice counts once.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer: Any = TfidfVectorizer(  # type: ignore[no-untyped-call]
            ngram_range=NGRAMS, sublinear_tf=True
        )
        self._vectorizer.fit(sorted(set(texts)))

    def of(self, texts: Sequence[str]) -> Any:
        """Return the vectors, a sparse matrix [texts, words]."""
        return self._vectorizer.transform(texts)


def ridge(vectors: Any, targets: Floats, penalty: float = RIDGE) -> tuple[Floats, Any]:
    """Fit ridge regression with a free level.

    Args:
        vectors: [n, words], sparse.
        targets: [n] or [n, targets].
        penalty: above 0.

    Returns:
        Slopes, [words] or [words, targets], and the level of each target.
    """
    from sklearn.linear_model import Ridge

    model: Any = Ridge(alpha=penalty, solver="sparse_cg")  # type: ignore[no-untyped-call]
    model.fit(vectors, targets)
    return np.asarray(model.coef_).T, model.intercept_


class TfidfRidge:
    """Ridge regression on TF-IDF, all targets on the same questions.

    Args:
        texts: questions.
        targets: what to predict, [questions] or [questions, targets].
    """

    def __init__(self, texts: Sequence[str], targets: Floats) -> None:
        self._words = Words(texts)
        self._slope, self._level = ridge(self._words.of(texts), targets)

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return the predictions, [texts] or [texts, targets]."""
        return np.asarray(self._words.of(texts) @ self._slope + self._level)


def out_of_fold(
    texts: Sequence[str], targets: Floats, rng: np.random.Generator, folds: int = 5
) -> Floats:
    """Predict each question by a model that has not seen it.

    Args:
        texts, targets: as in `TfidfRidge`.
        rng: shuffles the questions into folds.
        folds: how many, at least 2.
    """
    fold = rng.permutation(len(texts)) % folds
    predicted = np.zeros_like(targets, dtype=np.float64)
    for number in range(folds):
        seen, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        model = TfidfRidge([texts[int(row)] for row in seen], targets[seen])
        predicted[unseen] = model.predict([texts[int(row)] for row in unseen])
    return predicted
