"""What a Hugging Face folder says about itself: the class in its config.json knows what it takes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from enginery.errors import UsageError
from enginery.pipeline.scaffold.draft import Draft, Input, relative
from enginery.pipeline.source.hf import model_class

_POSITIONS: Final = ("max_position_embeddings", "n_positions", "max_target_positions")


def draft_hf(path: Path, folder: Path, inputs: Sequence[Input]) -> Draft:
    """The source, and the inputs unless they are given.

    Raises:
        SourceError: the folder names no class of transformers.
        UsageError: the class takes inputs whose shapes the folder does not say.
    """
    source = {"hf": relative(path, folder)}
    if inputs:
        return Draft(source, tuple(inputs))
    found, config = model_class(path)
    takes = inspect.signature(found.forward).parameters
    main: str = found.main_input_name
    read = [_input(main, path, config)]
    if "return_loss" in takes and main == "input_ids":  # texts beside images, such as CLIP
        read.append(_input("pixel_values", path, config))
    if main == "input_ids" and "attention_mask" in takes:
        read.append(Input("attention_mask", "int64", ("batch", "seq")))
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        read.append(Input("decoder_input_ids", "int64", ("batch", "decoder_seq")))
    longest = _longest(config, read)
    return Draft(source, tuple(read), _sentences(path, folder, read, longest.get("seq", 256)), longest)


def _input(name: str, path: Path, config: Any) -> Input:
    """An input of a name that transformers gives a meaning."""
    if name == "input_ids":
        return Input(name, "int64", ("batch", "seq"))
    if name == "input_values":
        return Input(name, "float32", ("batch", "samples"))
    if name == "pixel_values" and (size := _image_size(path, config)):
        return Input(name, "float32", ("batch", _of(config, "num_channels", 3), *size))
    if name == "input_features" and hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
        # Two frames of the spectrogram make one position.
        return Input(name, "float32", ("batch", config.num_mel_bins, 2 * config.max_source_positions))
    example = {"pixel_values": "batch,3,224,224", "input_features": "batch,80,3000"}.get(name, "batch,16")
    raise UsageError(
        f"{path} does not say the shape of its input {name}. Give each input, such as "
        f"--input '{name}:float32[{example}]'."
    )


def _image_size(path: Path, config: Any) -> tuple[int, int] | None:
    """Height and width: the model's own, or those that its preprocessor cuts."""
    size: Any = _of(config, "image_size", None)
    file = path / "preprocessor_config.json"
    if size is None and file.is_file():
        preprocessor = json.loads(file.read_text(encoding="utf-8"))
        size = (preprocessor.get("do_center_crop") and preprocessor.get("crop_size")) or preprocessor.get("size")
    if isinstance(size, dict):
        size = [size["height"], size["width"]] if "height" in size and "width" in size else None
    if isinstance(size, int):
        size = [size, size]
    return (int(size[0]), int(size[1])) if size else None


def _of(config: Any, name: str, default: Any) -> Any:
    """An attribute of the configuration, or of the part of it that speaks of images."""
    return getattr(config, name, getattr(getattr(config, "vision_config", None), name, default))


def _longest(config: Any, inputs: Sequence[Input]) -> dict[str, int]:
    """The number of positions that the model learned, which no sequence may exceed."""
    text = getattr(config, "text_config", config)
    sizes = [size for name in _POSITIONS if isinstance(size := getattr(text, name, None), int)]
    names = {dim for each in inputs for dim in each.shape if isinstance(dim, str)} & {"seq", "decoder_seq"}
    return dict.fromkeys(sorted(names), min(sizes)) if sizes else {}


def _sentences(path: Path, folder: Path, inputs: Sequence[Input], longest: int) -> dict[str, Any] | None:
    """Lines of a text file, where the folder's tokenizer makes all inputs of them."""
    if {each.name for each in inputs} != {"input_ids", "attention_mask"} or not (path / "tokenizer.json").is_file():
        return None
    tokenizer = relative(path / "tokenizer.json", folder)
    return {"text": "sentences.txt", "tokenize": {"tokenizer": tokenizer, "max_length": min(256, longest)}}
