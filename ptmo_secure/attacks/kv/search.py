"""Nearest neighbour over a whole vocabulary: exact, deterministic, in bounded memory."""

from collections.abc import Callable

import numpy as np

from ptmo_secure.attacks.kv.pages import FloatArray, IdArray

TABLE_CHUNK = 4096  # dictionary rows transformed and scored at a time
QUERY_CHUNK = 1024  # with TABLE_CHUNK: 16 MiB of scores
RERANK_CHUNK = 128

Transform = Callable[[FloatArray], FloatArray]  # [N, n_kv_heads, head_dim] -> [N, F]


def nearest(queries: FloatArray, table: FloatArray, transform: Transform) -> IdArray:
    """Index of the dictionary row nearest to each query in Euclidean distance.

    ||q - d||^2 = ||d||^2 - 2 q.d + const, as float32 matrix products over chunks of the table, on
    features shifted by a common centre (sorted rows are nearly parallel: without the shift the
    products cancel). The best of every chunk is then measured again in float64, so that the answer
    does not hang on the order in which a BLAS adds; among equals the first row of the table wins.

    Args:
        queries: [N, F] float32, finite, already transformed.
        table: [D, n_kv_heads, head_dim] float32.
        transform: what makes features of table rows.
    Returns:
        [N] indices into `table`.
    """
    if not len(queries):
        return np.empty(0, np.int64)
    # An unsealed layer-0 row repeats with its token: each is looked up once.
    as_bytes = np.ascontiguousarray(queries).view(
        np.dtype((np.void, queries.dtype.itemsize * queries.shape[1]))
    )
    _, first, again = np.unique(as_bytes.ravel(), return_index=True, return_inverse=True)
    queries = queries[first]
    centre = transform(table[:TABLE_CHUNK]).mean(axis=0, dtype=np.float64).astype(np.float32)
    shifted = np.asarray(queries - centre, np.float32)
    starts = range(0, len(table), TABLE_CHUNK)
    best = np.empty((len(queries), len(starts)), np.int64)  # best row of every chunk
    for column, start in enumerate(starts):
        features = np.asarray(transform(table[start : start + TABLE_CHUNK]) - centre, np.float32)
        half_norms = 0.5 * np.einsum("ij,ij->i", features, features)
        for low in range(0, len(queries), QUERY_CHUNK):
            scores = shifted[low : low + QUERY_CHUNK] @ features.T
            scores -= half_norms
            best[low : low + QUERY_CHUNK, column] = start + scores.argmax(axis=1)
    found = np.empty(len(queries), np.int64)
    for low in range(0, len(queries), RERANK_CHUNK):
        rows = best[low : low + RERANK_CHUNK]
        features = transform(table[rows.ravel()]).reshape(*rows.shape, -1)
        gaps = features.astype(np.float64) - queries[low : low + RERANK_CHUNK, None, :]
        winner = np.einsum("ijk,ijk->ij", gaps, gaps).argmin(axis=1)
        found[low : low + RERANK_CHUNK] = rows[np.arange(len(rows)), winner]
    return found[again]
