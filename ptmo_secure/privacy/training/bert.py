"""BERT with a token classification head (Devlin et al., 2019), as plain PyTorch.

Written out rather than taken from transformers because that class, exported to ONNX, gives other
logits than itself (off by more than 1); this one exports to within 1e-5. Parameters have the names
of transformers' `BertForTokenClassification`, so that its checkpoints load.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True, slots=True)
class BertShape:
    """Sizes of a model.

    Args:
        vocabulary: tokens.
        positions: longest input in tokens.
        width: elements of a hidden state, a multiple of `heads`.
        heads: attention heads.
        layers: transformer layers.
        inner: elements inside a feed-forward block.
        labels: classes of a token.
    """

    vocabulary: int
    positions: int
    width: int
    heads: int
    layers: int
    inner: int
    labels: int


class _Embeddings(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.width)
        self.position_embeddings = nn.Embedding(shape.positions, shape.width)
        self.token_type_embeddings = nn.Embedding(2, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPS)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        summed = self.word_embeddings(ids) + self.position_embeddings(positions)
        normalised: Tensor = self.LayerNorm(summed + self.token_type_embeddings.weight[0])
        return normalised


class _Residual(nn.Module):
    """A linear map, added to what went in, and normalised."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        normalised: Tensor = self.LayerNorm(self.dense(hidden) + before)
        return normalised


class _SelfAttention(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        head_dim = width // self.heads

        def split(x: Tensor) -> Tensor:
            return x.view(batch, length, self.heads, head_dim).transpose(1, 2)

        q, k, v = split(self.query(hidden)), split(self.key(hidden)), split(self.value(hidden))
        scores = q @ k.transpose(2, 3) * head_dim**-0.5 + bias
        mixed = torch.softmax(scores, dim=-1) @ v
        return mixed.transpose(1, 2).reshape(batch, length, width)


class _Layer(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": _SelfAttention(shape), "output": _Residual(shape.width, shape.width)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.width, shape.inner)})
        self.output = _Residual(shape.inner, shape.width)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        attended = self.attention["output"](self.attention["self"](hidden, bias), hidden)
        inner = functional.gelu(self.intermediate["dense"](attended))
        hidden_after: Tensor = self.output(inner, attended)
        return hidden_after


class _Encoder(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))


class _Body(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.embeddings = _Embeddings(shape)
        self.encoder = _Encoder(shape)


class TokenClassifier(nn.Module):
    """Logits of every token's class.

    Args:
        shape: sizes.
        dropout: rate before the head and after the embeddings, while training.
    """

    def __init__(self, shape: BertShape, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        self.bert = _Body(shape)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(shape.width, shape.labels)

    def forward(
        self,
        input_ids: Tensor,  # [B, T] int64
        attention_mask: Tensor,  # [B, T] int64: 1 for a token, 0 for padding
    ) -> Tensor:
        """Return float32 [B, T, labels]."""
        bias = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -1e9
        hidden = self.dropout(self.bert.embeddings(input_ids))
        for layer in self.bert.encoder.layer:
            hidden = layer(hidden, bias)
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits
