"""Sentences as vectors: all-MiniLM-L6-v2 (Reimers and Gurevych, 2019) in NumPy.

A BERT encoder (Devlin et al., 2019) of six layers; the mean of its last states, scaled to length 1.
It runs on this device alone: a vector tells about its sentence nearly what the sentence tells.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ptmo_secure.engine import registry
from ptmo_secure.errors import InputError

MODEL, TOKENIZER = "minilm", "minilm-tokenizer"  # of models.toml
MAX_TOKENS = 256  # it was trained on no longer texts
_HEADS = 12
_EPSILON = 1e-12  # of the layer norms
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
Array = npt.NDArray[np.float32]


class SentenceEncoder:
    """Makes vectors of sentences. Thread-safe.

    Args:
        weights: safetensors file with the names of Hugging Face's BertModel.
        tokenizer: tokenizer.json.
        heads: of the attention.

    Raises:
        InputError: the files hold no such model.
    """

    def __init__(self, weights: Path, tokenizer: Path, heads: int = _HEADS) -> None:
        try:
            self._weights: dict[str, Array] = load_file(weights)
            self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self.width = self._weights["embeddings.word_embeddings.weight"].shape[1]
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{weights}: no sentence encoder ({type(error).__name__})") from None
        except Exception as error:  # what the tokenizer's library raises has no narrower type
            raise InputError(f"{tokenizer}: no tokenizer ({type(error).__name__})") from None
        for name, weight in self._weights.items():
            if weight.ndim == 2 and not name.startswith("embeddings."):
                # a short text times a matrix that lies this way is several times quicker
                self._weights[name] = np.ascontiguousarray(weight.T)
        self._heads = heads
        names = {name.split(".")[2] for name in self._weights if name.startswith("encoder.layer.")}
        self._layers = len(names)

    @staticmethod
    def is_here() -> bool:
        """Whether `ptmo model pull` fetched both of its files."""
        try:
            return registry.resolve(MODEL).is_file() and registry.resolve(TOKENIZER).is_file()
        except InputError:
            return False

    @classmethod
    def load(cls) -> "SentenceEncoder":
        """Return the encoder that `ptmo model pull minilm` fetched.

        Raises:
            InputError: it is not here.
        """
        return cls(registry.resolve(MODEL), registry.resolve(TOKENIZER))

    def tokens(self, text: str) -> int:
        """Return how many tokens a text has, the two that frame it included."""
        return len(self._tokenizer.encode(text).ids)

    def encode(self, text: str) -> Array:
        """Return the vector of a text, float32 [width], of length 1.

        Raises:
            InputError: it has more than 256 tokens.
        """
        ids = self._tokenizer.encode(text).ids
        if len(ids) > MAX_TOKENS:
            raise InputError(f"the text has {len(ids)} tokens; the encoder takes {MAX_TOKENS}")
        mean = self._states(np.array(ids)).mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)

    def _states(self, ids: npt.NDArray[np.int64]) -> Array:
        """Return the last layer's states, [T, width]."""
        table = "embeddings.{}_embeddings.weight"
        words = self._weights[table.format("word")][ids]
        places = self._weights[table.format("position")][: len(ids)]
        kinds = self._weights[table.format("token_type")][0]
        states = self._norm(words + places + kinds, "embeddings")
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}"
            mixed = self._attended(states, f"{name}.attention.self")
            mixed = self._linear(mixed, f"{name}.attention.output.dense")
            states = self._norm(states + mixed, f"{name}.attention.output")
            inner = _gelu(self._linear(states, f"{name}.intermediate.dense"))
            inner = self._linear(inner, f"{name}.output.dense")
            states = self._norm(states + inner, f"{name}.output")
        return states

    def _attended(self, states: Array, name: str) -> Array:
        n, width = states.shape
        query, key, value = (
            self._linear(states, f"{name}.{part}").reshape(n, self._heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.sqrt(np.float32(width // self._heads))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return np.asarray((scores @ value).swapaxes(0, 1).reshape(n, width))

    def _linear(self, states: Array, name: str) -> Array:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return np.asarray(states @ weight + bias)

    def _norm(self, states: Array, name: str) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        weight = self._weights[f"{name}.LayerNorm.weight"]
        return np.asarray(centred / scale * weight + self._weights[f"{name}.LayerNorm.bias"])


def _gelu(x: Array) -> Array:
    """Return x Phi(x), with erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    z = np.abs(x) / np.sqrt(np.float32(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in reversed(_ERF):
        series = (series + np.float32(factor)) * t
    erf = np.sign(x) * (1 - series * np.exp(-z * z))
    return np.asarray(0.5 * x * (1 + erf), dtype=np.float32)
