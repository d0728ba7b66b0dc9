"""Small seeded modules, data that they can learn, and contexts for module passes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enginery.passes.base import ModuleContext


def seeded(build: Any, seed: int = 0) -> nn.Module:
    """`build()` with fixed weights, in eval mode."""
    torch.manual_seed(seed)
    return build().eval()


class Mlp(nn.Module):
    """x [batch, 16] -> logits [batch, 4]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(16, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


class Cnn(nn.Module):
    """x [batch, 3, 8, 8] -> logits [batch, 4]: residual addition, depthwise convolution, concatenation, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.branch = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.left = nn.Conv2d(16, 16, 1)
        self.right = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.narrow = nn.MaxPool2d(2)
        self.join = nn.Conv2d(40, 16, 1)
        self.hidden = nn.Linear(16 * 16, 32)
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.depthwise(x + self.branch(x)))
        x = torch.relu(self.join(torch.cat([self.narrow(self.left(x)), self.right(x)], 1)))
        return self.last(torch.relu(self.hidden(x.flatten(1))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.width = width // heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, self.width)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = (q @ k.transpose(-1, -2) * self.width**-0.5).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Transformer(nn.Module):
    """x [batch, seq, 16] -> logits [batch, 4]."""

    def __init__(self, layers: int = 4, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean(1))


SHAPES = {"mlp": (16,), "cnn": (3, 8, 8), "transformer": (6, 16)}


class Task:
    """A learnable toy problem: the class of a sample is the largest of four fixed random projections of it."""

    def __init__(self, kind: str, samples: int = 256, batch: int = 32, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.x = random.standard_normal((samples, *SHAPES[kind])).astype(np.float32)
        projections = random.standard_normal((int(np.prod(SHAPES[kind])), 4)).astype(np.float32)
        self.y = (self.x.reshape(samples, -1) @ projections).argmax(1)
        self.batch = batch

    def batches(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        for start in range(0, len(self.x), self.batch):
            yield {"x": self.x[start : start + self.batch]}, self.y[start : start + self.batch]

    def unlabelled(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        for feeds, _ in self.batches():
            yield feeds, None

    def accuracy(self, module: nn.Module) -> float:
        with torch.no_grad():
            return float((module(torch.from_numpy(self.x)).argmax(1).numpy() == self.y).mean())

    def context(self, **changes: Any) -> ModuleContext:
        values: dict[str, Any] = {"example": {"x": self.x[:2]}, "batches": self.batches, "metric": self.accuracy}
        return ModuleContext(**(values | changes))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def outputs_of(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(x)).numpy()


def export(module: nn.Module, x: np.ndarray, path: Path) -> Any:
    """The ONNX model that torch exports, with a dynamic batch; checked, saved at `path`."""
    import warnings

    import onnx

    with warnings.catch_warnings():
        # The older exporter warns that it is old. It takes a tenth of the newer one's time and writes the same weights.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.from_numpy(x),), str(path), dynamo=False,
            input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )  # fmt: skip
    model = onnx.load(path)
    onnx.checker.check_model(model)
    return model


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def initializer_elements(model: Any) -> int:
    """Elements of all floating-point initializers."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)
