"""Data from a folder or zip of images, with the usual preprocessing of a photo."""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from enginery.errors import DataError, MissingDependencyError
from enginery.pipeline.data.batch import Batch, Reader
from enginery.pipeline.data.layout import Layout
from enginery.pipeline.recipe import Data, ImagePreprocess
from enginery.pipeline.source.digest import file_digest, tree_digests

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

MAX_PIXELS = 100_000_000
"""A photo has fewer; a small file that claims more is made to fill the memory."""


class ImageReader(Reader):
    """Images in the order of the labels file, or of their names where there is none."""

    def __init__(self, data: Data, folder: Path, layout: Layout) -> None:
        assert data.image is not None
        self._data = data
        self._preprocess = data.image
        self._layout = layout
        self._input = layout.only_input(data.input)
        self._path = folder / (data.images or "")
        self._labels = folder / data.labels if data.labels is not None else None
        for path in (self._path, self._labels):
            if path is not None and not path.exists():
                raise DataError(f"There is no data {path}. Paths are relative to the recipe.")

    def read(self) -> Iterator[Batch]:
        with ExitStack() as stack:
            files = _Files(self._path, stack)
            listed = self._listed(files)[: self._data.samples]
            for start in range(0, len(listed), self._layout.rows):
                chosen = listed[start : start + self._layout.rows]
                images = np.stack([self._load(files, name) for name, _ in chosen])
                labels = [label for _, label in chosen if label is not None]
                names = f"{chosen[0][0]} to {chosen[-1][0]}"
                yield Batch({self._input.name: images}, np.array(labels, np.int64) if labels else None, names)

    def count(self) -> int:
        with ExitStack() as stack:
            listed = self._listed(_Files(self._path, stack))[: self._data.samples]
        return -(-len(listed) // self._layout.rows)

    def facts(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "images": self._path.name,
            "files": tree_digests(self._path),
            "labels": file_digest(self._labels) if self._labels is not None else None,
            "preprocess": self._preprocess.model_dump(mode="json"),
            "samples": self._data.samples,
            "pillow": version("pillow"),
        }

    def _listed(self, files: _Files) -> list[tuple[str, int | None]]:
        if self._labels is None:
            return [(name, None) for name in sorted(files.names)]
        with self._labels.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            if missing := {"file", "label"} - set(table.fieldnames or ()):
                raise DataError(f"{self._labels.name} has no columns {sorted(missing)}; it has {table.fieldnames}.")
            listed: list[tuple[str, int | None]] = [
                (row["file"], _label(row["label"], self._labels, line)) for line, row in enumerate(table, 2)
            ]
        if absent := [name for name, _ in listed if name not in files.names]:
            raise DataError(
                f"{self._labels.name} lists {len(absent)} files that are not in {self._path.name}, such as {absent[0]}."
            )
        return listed

    def _load(self, files: _Files, name: str) -> npt.NDArray[np.float32]:
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingDependencyError("Image data needs the package pillow: pip install 'enginery[cpu]'.") from error
        try:
            with warnings.catch_warnings():
                # Pillow's own limit only warns; it is an error below.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(files.read(name)))
            with image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{name} claims {image.width} x {image.height} pixels; at most {MAX_PIXELS}.")
                return preprocess(image, self._preprocess, name).astype(self._input.dtype)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{self._path.name}: cannot read the image {name}: {error}.") from error


def preprocess(image: Image.Image, how: ImagePreprocess, name: str) -> npt.NDArray[np.float32]:
    """One image as the model wants it: float32 [channels, height, width], or [height, width, channels].

    Raises:
        DataError: the image is smaller than the crop.
    """
    from PIL import Image

    image = image.convert("L" if how.channels == "L" else "RGB")
    if how.resize is not None:
        short = min(image.size)
        size = tuple(max(how.resize, int(how.resize * side / short)) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    if how.crop is not None:
        if min(image.size) < how.crop:
            raise DataError(f"{name} is {image.width} x {image.height}; the crop is {how.crop}. Resize before it.")
        left, top = (round((side - how.crop) / 2) for side in image.size)
        image = image.crop((left, top, left + how.crop, top + how.crop))
    pixels = np.asarray(image, np.float32)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if how.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    mean, std = (np.array(values, np.float32) for values in (how.mean, how.std))
    pixels = (pixels * np.float32(how.scale) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if how.layout == "NCHW" else pixels)


@dataclass
class _Files:
    """The images of a folder or a zip, by name relative to it."""

    path: Path
    stack: ExitStack

    def __post_init__(self) -> None:
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_dir():
            found = (file.relative_to(self.path) for file in self.path.rglob("*") if file.is_file())
            names = [file.as_posix() for file in found]
        else:
            try:
                self._zip = self.stack.enter_context(zipfile.ZipFile(self.path))
            except zipfile.BadZipFile as error:
                raise DataError(f"{self.path} is neither a folder nor a zip of images: {error}.") from error
            names = self._zip.namelist()
        self.names = {name for name in names if Path(name).suffix.lower() in SUFFIXES}
        if not self.names:
            raise DataError(f"{self.path} holds no image ({', '.join(sorted(SUFFIXES))}).")

    def read(self, name: str) -> bytes:
        if self._zip is None:
            return (self.path / name).read_bytes()
        return self._zip.read(name)


def _label(text: str, path: Path, line: int) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{path.name}, line {line}: the label {text!r} is no whole number.") from error
