"""Real inputs for ONNX files without labels: photos as a detector and a text classifier want them, speech for a VAD."""

import io
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
CONTEXT, CHUNK = 64, 512
"""Samples of the speech model's window: the end of the last chunk, then the new one."""


def photos(
    archive: str, name: str, size: tuple[int, int], mean: float, std: float, start: int, stop: int, batch: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Photos of `size` (width, height), (pixel - mean) / std."""
    with zipfile.ZipFile(HERE / archive) as files:
        names = files.namelist()[start:stop]
        for at in range(0, len(names), batch):
            opened = [Image.open(io.BytesIO(files.read(name))).convert("RGB") for name in names[at : at + batch]]
            pixels = np.stack([np.asarray(image.resize(size), np.float32) for image in opened])
            yield {name: ((pixels.transpose(0, 3, 1, 2) - mean) / std).astype(np.float32)}


def speech(file: str, model: str, start: int, stop: int, batch: int = 4) -> Iterator[dict[str, np.ndarray]]:
    """Windows of a recording with the state that the model itself had reached, `start` and `stop` in chunks."""
    from enginery.engines.onnxruntime import open_model

    with wave.open(str(HERE / file)) as recording:
        raw = recording.readframes(recording.getnframes())
    sound = np.frombuffer(raw, np.int16).astype(np.float32) / 32768
    run = open_model(HERE / model)
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)
    windows: list[np.ndarray] = []
    states: list[np.ndarray] = []
    for chunk in range(1, stop):
        window = sound[chunk * CHUNK - CONTEXT : (chunk + 1) * CHUNK][None]
        if chunk >= start:
            windows.append(window)
            states.append(state)
        state = run({"input": window, "state": state, "sr": rate})["stateN"]
    for at in range(0, len(windows), batch):
        chosen = slice(at, at + batch)
        yield {"input": np.concatenate(windows[chosen]), "state": np.concatenate(states[chosen], 1), "sr": rate}
