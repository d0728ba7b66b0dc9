"""The Fashion-MNIST networks and data that bench/compression.py compresses.

Of the 60,000 training images the first `samples` train and the last 5,000 choose epochs; test-dev's 5,000 are only ever
scored. Accuracies are in percent.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enginery.passes.base import ModuleContext
from enginery.passes.module.figures import count_macs, figures
from enginery.passes.module.prune.channels import PruneChannels
from enginery.passes.module.recover import Recover

VALIDATION = 5000
BATCH = 500
TRAINING: dict[str, Any] = {"batch": 128, "weight_decay": 1e-2, "autocast": "bf16"}
"""What all trainings of the benchmark share, the baselines' too."""


class Cnn(nn.Module):
    """x [batch, 1, 28, 28] -> logits [batch, 10]. 10.4 million MACs and 158,506 parameters at `width=32`."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        wide, wider = 2 * width, 3 * width
        self.stem, self.norm1 = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        self.middle, self.norm2 = nn.Conv2d(width, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)
        self.deep, self.norm3 = nn.Conv2d(wide, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider)
        self.residual, self.norm4 = nn.Conv2d(wider, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider)
        self.head = nn.Linear(wider, 10)
        self.to(memory_format=torch.channels_last)  # trains faster on a CPU

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.stem(x)))
        x = nn.functional.max_pool2d(torch.relu(self.norm2(self.middle(x))), 2)
        x = torch.relu(self.norm3(self.deep(x)))
        x = torch.relu(x + self.norm4(self.residual(x)))
        return self.head(x.mean((2, 3)))


def student() -> nn.Module:
    """A quarter of the width: 10,258 parameters, 1/15 of the original's."""
    return Cnn(width=8)


class Fashion:
    def __init__(self, folder: Path, samples: int | None = None) -> None:
        with np.load(folder / "fashion-mnist" / "train.npz") as file:
            images, labels = _images(file["X"]), file["Y"].astype(np.int64)
        with np.load(folder / "fashion-mnist" / "test-dev.npz") as file:
            self.test = _images(file["X"]), file["Y"].astype(np.int64)
        self.validation = images[-VALIDATION:], labels[-VALIDATION:]
        end = len(images) - VALIDATION if samples is None else samples
        self.images, self.labels = images[:end], labels[:end]

    def batches(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        for start in range(0, len(self.images), BATCH):
            yield {"x": self.images[start : start + BATCH]}, self.labels[start : start + BATCH]

    def context(self, seed: int, work: Path | None, **more: Any) -> ModuleContext:
        values: dict[str, Any] = {
            "example": {"x": self.images[:2]},
            "batches": self.batches,
            "metric": lambda module: accuracy(module, *self.validation),
            "seed": seed,
            "workdir": work,
        }
        return ModuleContext(**(values | more))

    def score(self, module: nn.Module) -> float:
        return accuracy(module, *self.test)


def _images(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float32) / 255 - 0.2860) / 0.3530)[:, None]


def accuracy(module: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    module.eval()
    with torch.no_grad():
        parts = [module(torch.from_numpy(images[i : i + BATCH])).argmax(1) for i in range(0, len(images), BATCH)]
    return 100 * float((torch.cat(parts).numpy() == labels).mean())


def trained(data: Fashion, seed: int, epochs: int, work: Path) -> nn.Module:
    """The original of a seed: trained once, kept in `work`."""
    path = work / f"original-{epochs}-{len(data.images)}-{seed}.pt"
    torch.manual_seed(seed)
    module = Cnn()
    if not path.exists():
        Recover(epochs=epochs, lr=3e-3, warmup=0.1, keep="last", **TRAINING).apply(module, data.context(seed, work))
        torch.save(module.state_dict(), path)
    module.load_state_dict(torch.load(path, weights_only=True))
    return module.eval()


def built(name: str, data: Fashion, seed: int, work: Path, make: Callable[[], nn.Module]) -> Path:
    """The ONNX file of one case and seed, made once and kept in `work`.

    Beside it: its accuracies, figures, and processor seconds of its making.
    """
    path = work / f"{name}-{seed}.onnx"
    if not path.with_suffix(".json").exists():
        begin = time.process_time()
        module = make()
        record = {"seconds": time.process_time() - begin}
        record |= {"accuracy": data.score(module), "validation": accuracy(module, *data.validation)}
        record |= figures(module, {"x": data.images[:1]}).to_json()
        export(module, path)
        path.with_suffix(".json").write_text(json.dumps(record))
    return path


def export(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            module.eval(), (), kwargs={"x": torch.zeros(2, 1, 28, 28)}, dynamic_shapes={"x": {0: "batch"}},
            input_names=["x"], output_names=["logits"], dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(path))


def pruned(original: nn.Module, context: ModuleContext, macs: float) -> nn.Module:
    return PruneChannels(macs=macs, criterion="taylor").apply(copy.deepcopy(original), context)[0]


def peers_pruned(original: nn.Module, example: Tensor, macs: float) -> nn.Module:
    """torch-pruning's own recipe: uniform ratio, group L2, the classifier ignored; the least that reaches `macs`."""
    import torch_pruning as tp

    wanted = macs * count_macs(original, {"x": example.numpy()})
    for step in range(1, 100):
        module = copy.deepcopy(original)
        tp.pruner.BasePruner(
            module, example, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=step / 100,
            ignored_layers=[module.head], num_heads={}, in_channel_groups={}, out_channel_groups={},
        ).step()  # fmt: skip
        if count_macs(module, {"x": example.numpy()}) <= wanted:
            return module
    raise ValueError(f"no ratio leaves {macs} of the multiply-accumulates")
