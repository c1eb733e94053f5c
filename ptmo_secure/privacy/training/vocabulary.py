"""Hangul for a tokenizer that has none: each syllable becomes a token, made of its letters.

Rampart's tokenizer takes syllables apart into letters, of which its vocabulary lacks a good third;
a word with one of those is unknown as a whole. The syllables of KS X 1001 take their place, without
those that hardly any word has.
"""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ptmo_secure.errors import InputError
from ptmo_secure.privacy.training.bert import TokenClassifier

_CONTINUES = "##"
_RARE = Path(__file__).with_name("rare_syllables.txt")
# Scripts of which no text is made: their tokens would stay as the base has them, and cost room
_LEFT_OUT = frozenset(
    "CJK HIRAGANA KATAKANA ARABIC HEBREW ARMENIAN GEORGIAN THAI TIBETAN BENGALI DEVANAGARI TAMIL "
    "SINHALA KANNADA MODIFIER FULLWIDTH".split()
)


def syllables() -> list[str]:
    """Return the Hangul syllables of KS X 1001 but rare ones, in order."""
    rare = set(_RARE.read_text("utf-8"))
    every = map(chr, range(0xAC00, 0xD7A4))
    return [c for c in every if len(c.encode("euc_kr", errors="ignore")) == 2 and c not in rare]


def with_hangul(path: Path) -> tuple[Tokenizer, list[int], list[str]]:
    """Return a tokenizer that knows syllables, the old tokens that it keeps, and its new ones.

    Args:
        path: `tokenizer.json` of an uncased BERT.

    Raises:
        InputError: the file is missing or of another form.
    """
    try:
        settings = json.loads(path.read_text("utf-8"))
        old = sorted(settings["model"]["vocab"].items(), key=lambda item: item[1])
        kept = [place for token, place in old if not _is_left_out(token)]
        vocabulary = {old[place][0]: new for new, place in enumerate(kept)}
        settings["model"]["vocab"] = vocabulary
        added = [
            token
            for syllable in syllables()
            for token in (syllable, _CONTINUES + syllable)
            if token not in vocabulary
        ]
        first = len(vocabulary)
        vocabulary.update({token: first + place for place, token in enumerate(added)})
        # BERT's normaliser takes syllables apart with the accents; NFC puts them together again
        settings["normalizer"] = {
            "type": "Sequence",
            "normalizers": [settings["normalizer"], {"type": "NFC"}],
        }
        settings["truncation"] = settings["padding"] = None
        return Tokenizer.from_str(json.dumps(settings)), kept, added
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not an uncased BERT's tokenizer: {error}") from None


def _is_left_out(token: str) -> bool:
    letter = token.removeprefix(_CONTINUES)[0]
    return unicodedata.name(letter, "?").split()[0] in _LEFT_OUT


def widen(
    model: TokenClassifier, tokenizer: Tokenizer, kept: list[int], added: list[str]
) -> TokenClassifier:
    """Return the model with an embedding for each added token: the mean of its letters' ones.

    Args:
        model: knows the old vocabulary.
        tokenizer: of `with_hangul`.
        kept, added: likewise.
    """
    old = model.bert.embeddings.word_embeddings.weight.detach()[kept]
    vocabulary = tokenizer.get_vocab()
    rows = []
    for token in added:
        letters = unicodedata.normalize("NFD", token.removeprefix(_CONTINUES))
        forms = [_CONTINUES + letter for letter in letters]
        if not token.startswith(_CONTINUES):
            forms[0] = letters[0]
        known = [vocabulary[form] for form in forms if form in vocabulary]
        rows.append(old[known].mean(dim=0) if known else old.mean(dim=0))
    wide = TokenClassifier(replace(model.shape, vocabulary=len(old) + len(added)))
    weights = dict(model.state_dict())
    weights["bert.embeddings.word_embeddings.weight"] = torch.cat([old, torch.stack(rows)])
    wide.load_state_dict(weights)
    return wide


def first_positions(model: TokenClassifier, count: int) -> TokenClassifier:
    """Return the model for texts of so many tokens at most."""
    short = TokenClassifier(replace(model.shape, positions=count))
    weights, name = dict(model.state_dict()), "bert.embeddings.position_embeddings.weight"
    weights[name] = weights[name][:count]
    short.load_state_dict(weights)
    return short


def first_layers(model: TokenClassifier, keep: tuple[int, ...]) -> TokenClassifier:
    """Return the model with these of its layers alone, in this order."""
    small = TokenClassifier(replace(model.shape, layers=len(keep)))
    weights = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[:3] == ["bert", "encoder", "layer"]:
            if int(parts[3]) not in keep:
                continue
            parts[3] = str(keep.index(int(parts[3])))
        weights[".".join(parts)] = tensor
    small.load_state_dict(weights)
    return small
