"""The all-MiniLM-L6-v2 sentence encoder as one plain `nn.Module`, pooling and normalization included.

Architecture: BERT (Devlin et al. 2018) with the sizes of MiniLM-L6-H384, mean pooling over valid tokens and
L2 normalization (Reimers and Gurevych 2019). The names of submodules are those of the published weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 30522
POSITIONS = 512
TOKEN_TYPES = 2
WIDTH = 384
HEADS = 12
LAYERS = 6
INNER = 1536
EPSILON = 1e-12

NOT_USED = ("pooler.", "embeddings.position_ids")
"""Published with the weights and no part of the sentence encoder: BERT's next-sentence head and a constant."""


class Embeddings(nn.Module):
    """Token, position and (constant, zero) token-type embeddings, normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(TOKEN_TYPES, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: input_ids.shape[1]] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(input_ids) + positions)


class Projected(nn.Module):
    """A projection whose result is added to the residual and normalized."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(hidden) + residual)


class SelfAttention(nn.Module):
    """Multi-head attention. `bias` [batch, 1, 1, seq] is added to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads = HEADS
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        projections = (self.query, self.key, self.value)
        query, key, value = (_split(project(hidden), self.num_attention_heads) for project in projections)
        scores = query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + bias
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # `self` is a name in the published weights that no attribute can be assigned to plainly.
        self.attention = nn.ModuleDict({"self": SelfAttention(), "output": Projected(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, INNER)})
        self.output = Projected(INNER)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        hidden = self.attention["output"](self.attention["self"](hidden, bias), hidden)
        return self.output(functional.gelu(self.intermediate["dense"](hidden)), hidden)


class SentenceEncoder(nn.Module):
    """input_ids, attention_mask: int64 [batch, seq], 1 <= seq <= 512 -> embedding: float32 [batch, 384] of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embeddings(input_ids)
        valid = attention_mask.to(hidden.dtype)
        bias = ((1.0 - valid) * torch.finfo(hidden.dtype).min)[:, None, None, :]
        for layer in self.encoder["layer"].children():
            hidden = layer(hidden, bias)
        return functional.normalize(_mean(hidden, valid), dim=1)


def build(weights: Mapping[str, Tensor]) -> nn.Module:
    """The encoder with the published weights (`model.safetensors` of all-MiniLM-L6-v2)."""
    model = SentenceEncoder()
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith(NOT_USED)})
    return model.eval()


def _split(projected: Tensor, heads: int) -> Tensor:
    """[batch, seq, heads * width] -> [batch, heads, seq, width]; the width of a head stays when heads are pruned."""
    return projected.unflatten(-1, (heads, WIDTH // HEADS)).transpose(1, 2)


def _mean(hidden: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid tokens: [batch, seq, width], [batch, seq] -> [batch, width]."""
    count = valid.sum(dim=1, keepdim=True).clamp(min=1.0)
    return (hidden * valid[:, :, None]).sum(dim=1) / count
