"""SentencePiece BPE encoding with byte fallback, as GGUF tokenizer model "llama" means it.

Repeatedly merges the two neighbours whose concatenation is the vocabulary entry of the highest
score, the leftmost pair on a tie (SentencePiece, src/bpe_model.cc). `tokenizers` has no exact
equivalent: its merge list breaks ties between different splits of one entry differently.
"""

import heapq
from collections.abc import Mapping

SPACE = "▁"  # U+2581, SentencePiece's visible space


def encode_pieces(
    text: str,  # spaces already replaced by SPACE
    entries: Mapping[str, tuple[int, float]],  # text -> (token id, score)
    byte_ids: Mapping[int, int],  # byte -> token id
    unknown_id: int | None,
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode text in O(n log n).

    Returns:
        Token ids, and for each the (start, end) code points of `text` it stands for; the bytes
        of one code point share its range. A code point with neither an entry nor byte tokens
        gives the unknown token, or nothing where there is none.
    """
    symbols = list(text)
    following = list(range(1, len(symbols) + 1))
    preceding = list(range(-1, len(symbols) - 1))
    queue: list[tuple[float, int, int, str]] = []

    def offer(left: int) -> None:
        """Queue the merge of a symbol with the one after it, if the result is an entry."""
        right = following[left]
        if right >= len(symbols):
            return
        joined = symbols[left] + symbols[right]
        entry = entries.get(joined)
        if entry is not None:
            heapq.heappush(queue, (-entry[1], left, right, joined))

    for index in range(len(symbols) - 1):
        offer(index)
    while queue:
        _, left, right, joined = heapq.heappop(queue)
        # Stale unless both are alive and unchanged: a symbol only grows or becomes "".
        if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != joined:
            continue
        symbols[left], symbols[right] = joined, ""
        following[left] = following[right]
        if following[right] < len(symbols):
            preceding[following[right]] = left
        if preceding[left] >= 0:
            offer(preceding[left])
        offer(left)
    return _to_ids(symbols, entries, byte_ids, unknown_id)


def _to_ids(
    symbols: list[str],
    entries: Mapping[str, tuple[int, float]],
    byte_ids: Mapping[int, int],
    unknown_id: int | None,
) -> tuple[list[int], list[tuple[int, int]]]:
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, symbol in enumerate(symbols):
        if not symbol:
            continue
        entry = entries.get(symbol)
        if entry is not None:
            new: list[int] = [entry[0]]
        elif all(byte in byte_ids for byte in symbol.encode("utf-8")):
            new = [byte_ids[byte] for byte in symbol.encode("utf-8")]
        else:
            new = [] if unknown_id is None else [unknown_id]
        ids.extend(new)
        offsets.extend([(start, start + len(symbol))] * len(new))
    return ids, offsets
