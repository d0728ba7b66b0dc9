"""SqueezeNet v1.0 as its authors pruned and shared it, and photos for it, for bench/compression.py."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FIRES = {2: (96, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128), 6: (256, 48, 192),
         7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}  # fmt: skip
"""Number: (input channels, squeeze channels, channels of each expansion)."""

PUBLISHED_BYTES = 675_763
"""compressed_SqueezeNet.net, with its own entropy-coded format and no runtime that reads it."""


class Fire(nn.Module):
    def __init__(self, given: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(given, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1(x), self.expand3(x)], 1))


class SqueezeNet(nn.Module):
    """x [batch, 3, 227, 227], BGR minus (104, 117, 123) -> logits [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, 2)
        for number, sizes in FIRES.items():
            self.add_module(f"fire{number}", Fire(*sizes))
        self.conv10 = nn.Conv2d(512, 1000, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = _pool(torch.relu(self.conv1(x)))
        for number in FIRES:
            x = self.get_submodule(f"fire{number}")(x)
            if number in (4, 8):
                x = _pool(x)
        return torch.relu(self.conv10(x)).mean((2, 3))


def _pool(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)


def load(folder: Path) -> SqueezeNet:
    from safetensors.torch import load_file

    module = SqueezeNet()
    module.load_state_dict(load_file(folder / "models" / "squeezenet_v1_0_deep_compressed.safetensors"))
    return module.eval()


def photos(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` evaluation photos, preprocessed, and their labels."""
    from PIL import Image

    rows = (folder / "imagenet" / "eval-dev.csv").read_text().splitlines()[1 : count + 1]
    images: list[np.ndarray] = []
    with zipfile.ZipFile(folder / "imagenet" / "eval-dev.zip") as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        for row in rows:
            photo = Image.open(io.BytesIO(archive.read(names[Path(row.split(",")[0]).name]))).convert("RGB")
            scale = 256 / min(photo.size)
            photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BILINEAR)
            left, top = (photo.width - 227) // 2, (photo.height - 227) // 2
            pixels = np.asarray(photo.crop((left, top, left + 227, top + 227)), np.float32)
            images.append((pixels[:, :, ::-1] - (104, 117, 123)).transpose(2, 0, 1).astype(np.float32))
    return np.stack(images), np.array([int(row.split(",")[1]) for row in rows])


def export(module: nn.Module, photo: np.ndarray, path: Path) -> None:
    with warnings.catch_warnings():
        # The older exporter warns that it is old; it takes a tenth of the newer one's time and writes the same weights.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.from_numpy(photo),), str(path), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "batch"}}, opset_version=20,
        )  # fmt: skip
