"""The zoo: small random-weight models of many architectures, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from exports import Example, randomize, text_example

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 100,
}
DECODER = SMALL | {"max_position_embeddings": 64, "use_cache": False}
GROUPED = DECODER | {"num_key_value_heads": 2}


def _hf(kind: str, *, inputs: tuple[str, ...] = ("input_ids", "attention_mask"), **config: Any) -> Example:
    """A text model of transformers with its own configuration class."""
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    module = randomize(getattr(transformers, f"{kind}Model")(settings))
    example = text_example(Last(module))
    return Example(example.module, {name: example.inputs[name] for name in inputs}, example.dims)


class Last(torch.nn.Module):
    """The last hidden state alone: caches and attentions are no answers."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        result = self.module(**inputs)
        return result if isinstance(result, torch.Tensor) else result[0]


def _encoder_decoder(kind: str, **config: Any) -> Example:
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    module = Last(randomize(getattr(transformers, f"{kind}Model")(settings)))
    example = text_example(module)
    inputs = {**example.inputs, "decoder_input_ids": example.inputs["input_ids"][:, :5].clone()}
    return Example(module, inputs, {**example.dims, "decoder_input_ids": {0: "batch"}})


def _hf_image(kind: str, size: int = 32, **config: Any) -> Example:
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    module = Last(randomize(getattr(transformers, f"{kind}Model")(settings)))
    return Example(module, {"pixel_values": torch.randn(2, 3, size, size)}, {"pixel_values": {0: "batch"}})


def _timm(name: str, size: int = 64, **options: Any) -> Example:
    import timm

    module = randomize(timm.create_model(name, pretrained=False, num_classes=10, **options))
    return Example(module, {"x": torch.randn(2, 3, size, size)}, {"x": {0: "batch"}})


class Recurrent(torch.nn.Module):
    def __init__(self, kind: str, *, both: bool) -> None:
        super().__init__()
        self.cell = getattr(torch.nn, kind)(12, 16, num_layers=2, batch_first=True, bidirectional=both)
        self.head = torch.nn.Linear(32 if both else 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0])


def _recurrent(kind: str, *, both: bool = False) -> Example:
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


def _unet() -> Example:
    return Example(randomize(Unet()), {"x": torch.randn(2, 3, 32, 32)}, {"x": {0: "batch"}})


class Transformer(torch.nn.Module):
    """torch's own encoder layers."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=first, activation="gelu")
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _transformer(*, first: bool) -> Example:
    return Example(randomize(Transformer(first=first)), {"x": torch.randn(2, 11, 32)}, {"x": {0: "batch", 1: "seq"}})


def _audio(kind: str, **config: Any) -> Example:
    import transformers

    settings = getattr(transformers, f"{kind}Config")(**config)
    module = Last(randomize(getattr(transformers, f"{kind}Model")(settings)))
    return Example(module, {"input_values": torch.randn(2, 2000)}, {"input_values": {0: "batch"}})


def _mixture(kind: str, **config: Any) -> Example:
    """Mixture-of-experts models export with batched experts: a preparation step, as Enginery's source names it."""
    example = _hf(kind, **config)
    for module in example.module.modules():
        if hasattr(module, "set_experts_implementation"):
            module.set_experts_implementation("batched_mm")
            break
    return example


_AUDIO = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "use_cache": False,
}
_T5 = {"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48, "vocab_size": 100, "use_cache": False}
_VIT = {key: value for key, value in SMALL.items() if key != "vocab_size"} | {"image_size": 32, "patch_size": 8}

_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SMALL),
    "roberta": ("Roberta", SMALL),
    "electra": ("Electra", SMALL | {"embedding_size": 32}),
    "albert": ("Albert", SMALL | {"embedding_size": 16}),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 100}),
    "mpnet": ("MPNet", SMALL),
    "camembert": ("Camembert", SMALL),
    "deberta-v2": ("DebertaV2", SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "modernbert": ("ModernBert", SMALL | {"pad_token_id": 0, "local_attention": 8}),
    "roformer": ("RoFormer", SMALL | {"max_position_embeddings": 64}),
    "nystromformer": ("Nystromformer", SMALL | {"segment_means_seq_len": 64, "num_landmarks": 8}),
    "fnet": ("FNet", {k: v for k, v in SMALL.items() if k != "num_attention_heads"}),
    "squeezebert": ("SqueezeBert", SMALL | {"embedding_size": 32}),
    "layoutlm": ("LayoutLM", SMALL),
    "convbert": ("ConvBert", SMALL | {"embedding_size": 32}),
    "megatron-bert": ("MegatronBert", SMALL),
    "xlm-roberta": ("XLMRoberta", SMALL),
    "longformer": ("Longformer", SMALL | {"attention_window": 4}),
    "funnel": (
        "Funnel",
        {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "vocab_size": 100, "block_sizes": [1, 1]},
    ),
    "xlnet": ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": 100}),
    "gpt2": (
        "GPT2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64, "use_cache": False},
    ),
    "gpt-neo": (
        "GPTNeo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "vocab_size": 100,
            "max_position_embeddings": 64,
            "window_size": 8,
            "use_cache": False,
        },
    ),
    "gpt-neox": ("GPTNeoX", DECODER),
    "gptj": (
        "GPTJ",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
            "vocab_size": 100,
            "n_positions": 64,
            "use_cache": False,
        },
    ),
    "opt": (
        "OPT",
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 100,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
            "use_cache": False,
        },
    ),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "use_cache": False}),
    "falcon": (
        "Falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "use_cache": False},
    ),
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 8}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", GROUPED | {"head_dim": 8}),
    "gemma": ("Gemma", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2", GROUPED | {"head_dim": 8, "sliding_window": 8}),
    "phi": ("Phi", DECODER),
    "phi3": ("Phi3", GROUPED | {"pad_token_id": 0}),
    "stablelm": ("StableLm", GROUPED),
    "starcoder2": ("Starcoder2", GROUPED),
    "olmo": ("Olmo", GROUPED),
    "olmo2": ("Olmo2", GROUPED),
    "cohere": ("Cohere", GROUPED),
    "granite": ("Granite", GROUPED),
    "glm": ("Glm", GROUPED | {"head_dim": 8, "pad_token_id": 0}),
    "mamba": (
        "Mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 8, "use_cache": False},
    ),
}
_TIMM: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnext50_32x4d": {},
    "mobilenetv2_050": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "efficientnet_lite0": {},
    "densenet121": {},
    "regnetx_002": {},
    "regnety_002": {},
    "ghostnet_050": {},
    "mnasnet_small": {},
    "hardcorenas_a": {},
    "convnext_atto": {},
    "convnextv2_atto": {},
    "mobileone_s0": {},
    "repvgg_a0": {},
    "vgg11_bn": {},
    "dla34": {},
    "mixer_s32_224": {"img_size": 64},
    "resmlp_12_224": {"img_size": 64},
    "gmixer_12_224": {"img_size": 64},
    "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_patch16_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "window_size": 7},
    "swinv2_tiny_window8_256": {"img_size": 64},
    "cait_xxs24_224": {"img_size": 64},
    "xcit_nano_12_p16_224": {},
    "levit_128s": {},
    "pvt_v2_b0": {},
    "poolformer_s12": {},
    "mobilevit_xxs": {},
    "efficientformer_l1": {},
    "twins_svt_small": {},
    "coatnet_nano_rw_224": {"img_size": 64},
    "maxvit_rmlp_pico_rw_256": {"img_size": 64},
    "beit_base_patch16_224": {"img_size": 64},
    "edgenext_xx_small": {},
}
_TIMM_SIZES = {"swin_tiny_patch4_window7_224": 56, "levit_128s": 224, "efficientformer_l1": 224}

MODELS: dict[str, Callable[[], Example]] = {
    **{name: functools.partial(_hf, kind, **config) for name, (kind, config) in _TEXT.items()},
    **{
        name.split("_224")[0]: functools.partial(_timm, name, _TIMM_SIZES.get(name, 64), **config)
        for name, config in _TIMM.items()
    },
    "resnet": functools.partial(_timm, "resnet10t"),
    "mobilenetv3": functools.partial(_timm, "mobilenetv3_small_075"),
    "bart": functools.partial(_encoder_decoder, "Bart", **_SEQ2SEQ),
    "marian": functools.partial(_encoder_decoder, "Marian", **_SEQ2SEQ, pad_token_id=0),
    "t5": functools.partial(_encoder_decoder, "T5", **_T5),
    "mt5": functools.partial(_encoder_decoder, "MT5", **_T5),
    "vit-hf": functools.partial(_hf_image, "ViT", **_VIT),
    "dinov2": functools.partial(_hf_image, "Dinov2", **{k: v for k, v in _VIT.items() if k != "intermediate_size"}),
    "clip-vision": functools.partial(_hf_image, "CLIPVision", **_VIT),
    "siglip-vision": functools.partial(_hf_image, "SiglipVision", **_VIT),
    "wav2vec2": functools.partial(_audio, "Wav2Vec2", **_AUDIO),
    "hubert": functools.partial(_audio, "Hubert", **_AUDIO),
    "mixtral": functools.partial(_mixture, "Mixtral", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": functools.partial(
        _mixture,
        "Qwen2Moe",
        **GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "lstm": functools.partial(_recurrent, "LSTM"),
    "gru": functools.partial(_recurrent, "GRU"),
    "bi-lstm": functools.partial(_recurrent, "LSTM", both=True),
    "unet": _unet,
    "torch-transformer": functools.partial(_transformer, first=False),
    "torch-transformer-pre": functools.partial(_transformer, first=True),
}
