"""The rules alone on public data: harmless text is not flagged, structured values are masked."""

import json
from pathlib import Path

import pytest

from tee_sim.guard.scoring import scan_text

DATA = next(
    (
        folder / "shared" / "data"
        for folder in Path(__file__).resolve().parents
        if (folder / "shared" / "data").is_dir()
    ),
    None,
)
pytestmark = pytest.mark.skipif(DATA is None, reason="the public data sets are not here")


def lines(name, key):
    text = (DATA / name).read_text(encoding="utf-8")
    return [json.loads(line)[key] for line in text.splitlines()]


@pytest.mark.parametrize(
    "name,key",
    [
        ("public_efficientqa.jsonl", "question"),
        ("public_seed_tasks.jsonl", "instruction"),
        ("public_gsm8k_500.jsonl", "question"),
    ],
)
def test_harmless_questions_are_not_flagged(name, key):
    texts = lines(name, key)[::2]
    flagged = [text for text in texts if scan_text(text).spans]
    assert len(flagged) <= 0.01 * len(texts), flagged[:5]


def test_structured_values_are_masked_and_little_else():
    documents = json.loads((DATA / "presidio_synth.json").read_text(encoding="utf-8"))[::3]
    kinds = {"CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "DOMAIN_NAME"}
    hits = wanted = inside = masked = 0
    for document in documents:
        text = document["full_text"]
        covered = {i for span in scan_text(text).spans for i in range(span.start, span.end)}
        covered = {i for i in covered if text[i].isalnum()}
        gold = set()
        for span in document["spans"]:
            own = {i for i in range(span["start_position"], span["end_position"])}
            gold |= own
            if span["entity_type"] in kinds:
                own = {i for i in own if text[i].isalnum()}
                wanted += 1
                hits += len(own & covered) >= 0.9 * len(own)
        masked += len(covered)
        inside += len(covered & gold)
    assert wanted >= 60 and hits == wanted
    assert inside >= 0.97 * masked
