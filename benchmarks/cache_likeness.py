"""How often an answer would be served to another question: hits on labelled pairs of questions.

    python benchmarks/cache_likeness.py --json

Needs the encoder (`ptmo model pull minilm minilm-tokenizer`). The pairs are ours
(tests/data/question_pairs.tsv): "same" have one answer, "different" are near and have not.
"""

import argparse
from pathlib import Path

from ptmo_secure.engine.sentence_encoder import SentenceEncoder
from ptmo_secure.hybrid.likeness import marks
from ptmo_secure.results import to_json

PAIRS = Path(__file__).parent.parent / "tests" / "data" / "question_pairs.tsv"
LEAST = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--show", type=float, help="print the pairs that this bound gets wrong")
    args = parser.parse_args()
    encoder = SentenceEncoder.load()
    rows = []
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        label, one, other = line.split("\t")
        near = float(encoder.encode(one) @ encoder.encode(other))
        rows.append((label == "same", near, marks(one) == marks(other), one, other))
    table = [row for least in LEAST for row in (measured(rows, least, m) for m in (False, True))]
    if args.json:
        same = sum(row[0] for row in rows)
        print(to_json({"same": same, "different": len(rows) - same, "table": table}))
        return
    print("least  marks  precision  recall  wrong hits")
    for row in table:
        print(
            f"{row['least']:<6} {row['marks']!s:<6} {row['precision']:<10} {row['recall']:<7} "
            f"{row['wrong']}"
        )
    for is_same, near, fits, one, other in rows if args.show else ():
        if is_same != (fits and near >= args.show):
            print(f"{is_same!s:<6} {near:.3f} {fits!s:<6} {one} | {other}")


def measured(
    rows: list[tuple[bool, float, bool, str, str]], least: float, with_marks: bool
) -> dict[str, object]:
    """Return precision and recall of hits, with the marks compared or not."""
    hits = [row[0] for row in rows if row[1] >= least and (row[2] or not with_marks)]
    right = sum(hits)
    return {
        "least": least,
        "marks": with_marks,
        "precision": round(right / len(hits), 4) if hits else None,
        "recall": round(right / sum(row[0] for row in rows), 4),
        "wrong": len(hits) - right,
    }


if __name__ == "__main__":
    main()
