"""How the zoo makes its models: seeded random weights, example inputs, dynamic dimensions."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from exports import Example, randomize, text_example


class Last(torch.nn.Module):
    """The first field of a result alone, such as the last hidden state: caches and attentions are no answers."""

    def __init__(self, module: torch.nn.Module, fields: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.module = module
        self.fields = fields

    def forward(self, **inputs: torch.Tensor) -> Any:
        result = self.module(**inputs)
        if self.fields:
            return tuple(result[name] for name in self.fields)
        return result if isinstance(result, torch.Tensor) else result[0]


def hf(kind: str, suffix: str = "Model", **config: Any) -> torch.nn.Module:
    """A randomized model of transformers from its own configuration class."""
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    return randomize(getattr(transformers, f"{kind}{suffix}")(settings))


def text(kind: str, *, inputs: tuple[str, ...] = ("input_ids", "attention_mask"), **config: Any) -> Example:
    example = text_example(Last(hf(kind, **config)))
    return Example(example.module, {name: example.inputs[name] for name in inputs}, example.dims)


def fixed_text(kind: str, length: int, **config: Any) -> Example:
    """A text model of one length."""
    example = text_example(Last(hf(kind, **config)), length=length)
    return Example(example.module, example.inputs, {name: {0: "batch"} for name in example.inputs})


def mixture(kind: str, **config: Any) -> Example:
    """Mixture-of-experts models, prepared as Enginery's source prepares them."""
    from enginery.pipeline.source.hf import prepare

    example = text(kind, **config)
    return dataclasses.replace(example, preparation="; ".join(prepare(example.module.module)))


def encoder_decoder(kind: str, **config: Any) -> Example:
    module = Last(hf(kind, **config))
    example = text_example(module)
    inputs = {**example.inputs, "decoder_input_ids": example.inputs["input_ids"][:, :5].clone()}
    return Example(module, inputs, {**example.dims, "decoder_input_ids": {0: "batch"}})


class Cached(torch.nn.Module):
    """A decoder's step: keys and values of earlier tokens come in as tensors, and go out longer."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: torch.Tensor, **past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from transformers import DynamicCache

        pairs = [(past[f"key_{layer}"], past[f"value_{layer}"]) for layer in range(len(past) // 2)]
        result = self.module(input_ids=input_ids, past_key_values=DynamicCache(pairs), use_cache=True)
        grown = [tensor for layer in result.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (result.last_hidden_state, *grown)


def cached_decoder(kind: str, *, heads: int, size: int, layers: int = 2, **config: Any) -> Example:
    """`heads` of keys and values with `size` numbers each; one new token for any number of earlier ones."""
    module = Cached(hf(kind, **config))
    inputs = {"input_ids": torch.randint(1, 90, (2, 1), generator=torch.Generator().manual_seed(0))}
    names = [f"{part}_{layer}" for layer in range(layers) for part in ("key", "value")]
    inputs |= {name: torch.randn(2, heads, 5, size) for name in names}
    return Example(module, inputs, {"input_ids": {0: "batch"}} | {name: {0: "batch", 2: "past"} for name in names})


def image(kind: str, size: int = 32, suffix: str = "Model", fields: tuple[str, ...] = (), **config: Any) -> Example:
    module = Last(hf(kind, suffix, **config), fields)
    return Example(module, {"pixel_values": torch.randn(2, 3, size, size)}, {"pixel_values": {0: "batch"}})


def two_towers(kind: str, text_config: dict[str, Any], vision_config: dict[str, Any], **config: Any) -> Example:
    """Text and image, compared."""
    module = hf(kind, text_config=text_config, vision_config=vision_config, **config)
    example = text_example(Last(module, ("logits_per_image", "text_embeds", "image_embeds")))
    inputs = {**example.inputs, "pixel_values": torch.randn(3, 3, 32, 32)}
    return Example(example.module, inputs, example.dims)


def timm_image(name: str, size: int = 64, **options: Any) -> Example:
    import timm

    module = randomize(timm.create_model(name, pretrained=False, num_classes=10, **options))
    return Example(module, {"x": torch.randn(2, 3, size, size)}, {"x": {0: "batch"}})


def audio(kind: str, **config: Any) -> Example:
    module = Last(hf(kind, **config))
    return Example(module, {"input_values": torch.randn(2, 2000)}, {"input_values": {0: "batch"}})


def spectrogram(kind: str, **config: Any) -> Example:
    module = Last(hf(kind, **config))
    shape = (2, config["max_length"], config["num_mel_bins"])
    return Example(module, {"input_values": torch.randn(shape)}, {"input_values": {0: "batch"}})


def whisper(**config: Any) -> Example:
    module = Last(hf("Whisper", **config))
    frames = torch.randn(2, config["num_mel_bins"], 2 * config["max_source_positions"])
    tokens = torch.randint(1, 90, (2, 5), generator=torch.Generator().manual_seed(0))
    dims = {"input_features": {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "seq"}}
    return Example(module, {"input_features": frames, "decoder_input_ids": tokens}, dims)


class Recurrent(torch.nn.Module):
    def __init__(self, kind: str, *, both: bool) -> None:
        super().__init__()
        self.cell = getattr(torch.nn, kind)(12, 16, num_layers=2, batch_first=True, bidirectional=both)
        self.head = torch.nn.Linear(32 if both else 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0])


def recurrent(kind: str, *, both: bool = False) -> Example:
    return Example(Recurrent(kind, both=both).eval(), {"x": torch.randn(2, 11, 12)}, {"x": {0: "batch"}})


class Unet(torch.nn.Module):
    """Segmentation: a small U-Net with group norm and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.GroupNorm(4, 16), torch.nn.SiLU())
        self.middle = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, 1, 1), torch.nn.BatchNorm2d(16), torch.nn.ReLU())
        self.up = torch.nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = torch.nn.Conv2d(11, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.down(x)
        return self.head(torch.cat([self.up(inner + self.middle(inner)), x], 1))


def unet() -> Example:
    return Example(randomize(Unet()), {"x": torch.randn(2, 3, 32, 32)}, {"x": {0: "batch"}})


class Transformer(torch.nn.Module):
    """torch's own encoder layers."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=first, activation="gelu")
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def transformer(*, first: bool) -> Example:
    return Example(randomize(Transformer(first=first)), {"x": torch.randn(2, 11, 32)}, {"x": {0: "batch", 1: "seq"}})
