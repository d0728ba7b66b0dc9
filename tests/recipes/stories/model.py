"""A Llama of 260,000 parameters: grouped-query attention, RMSNorm, interleaved rotary embedding, SwiGLU."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, INNER, LAYERS, VOCABULARY, LONGEST = 64, 172, 5, 512, 512
HEADS, KEYS, SIZE = 8, 4, 8
"""Query heads, key and value heads, and channels of one head."""
EPSILON, BASE = 1e-5, 10000.0


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wq = nn.Linear(WIDTH, HEADS * SIZE, bias=False)
        self.wk = nn.Linear(WIDTH, KEYS * SIZE, bias=False)
        self.wv = nn.Linear(WIDTH, KEYS * SIZE, bias=False)
        self.wo = nn.Linear(HEADS * SIZE, WIDTH, bias=False)
        self.w1 = nn.Linear(WIDTH, INNER, bias=False)
        self.w2 = nn.Linear(INNER, WIDTH, bias=False)
        self.w3 = nn.Linear(WIDTH, INNER, bias=False)
        self.an = nn.RMSNorm(WIDTH, EPSILON)
        self.fn = nn.RMSNorm(WIDTH, EPSILON)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        normal = self.an(hidden)
        query = _rotate(self.wq(normal).unflatten(-1, (HEADS, SIZE)).transpose(1, 2), cosine, sine)
        key = _rotate(self.wk(normal).unflatten(-1, (KEYS, SIZE)).transpose(1, 2), cosine, sine)
        value = self.wv(normal).unflatten(-1, (KEYS, SIZE)).transpose(1, 2)
        key, value = (each.repeat_interleave(HEADS // KEYS, 1) for each in (key, value))
        scores = (query @ key.transpose(-1, -2) * SIZE**-0.5 + mask).softmax(-1)
        hidden = hidden + self.wo((scores @ value).transpose(1, 2).flatten(2))
        normal = self.fn(hidden)
        return hidden + self.w2(functional.silu(self.w1(normal)) * self.w3(normal))


class Llama(nn.Module):
    """input_ids: int64 [batch, seq], seq <= 512 -> logits of the next token: float32 [batch, seq, 512]."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, EPSILON)
        frequencies = BASE ** (-torch.arange(0, SIZE, 2) / SIZE)
        angles = torch.arange(LONGEST)[:, None] * frequencies
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        self.register_buffer("mask", torch.full((LONGEST, LONGEST), -1e9).triu(1), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        hidden = self.emb(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, self.cosine[:length], self.sine[:length], self.mask[:length, :length])
        return functional.linear(self.norm(hidden), self.emb.weight)


def build(weights: Mapping[str, Tensor]) -> nn.Module:
    """The weights stack the same tensor of all layers, except the embedding and the last norm."""
    state = {"emb.weight": weights["emb"], "norm.weight": weights["norm"]}
    for name in ("an", "fn", "wq", "wk", "wv", "wo", "w1", "w2", "w3"):
        state |= {f"layers.{index}.{name}.weight": value for index, value in enumerate(weights[name])}
    model = Llama()
    model.load_state_dict(state)
    return model


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate neighbouring channels: [batch, heads, seq, size] by angles [seq, size / 2]."""
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)
