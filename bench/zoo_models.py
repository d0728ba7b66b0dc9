"""The zoo: small random-weight models of many architectures, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo_modules import (
    audio,
    cached_decoder,
    encoder_decoder,
    fixed_text,
    image,
    mixture,
    recurrent,
    spectrogram,
    text,
    timm_image,
    transformer,
    two_towers,
    unet,
    whisper,
)

if TYPE_CHECKING:
    from exports import Example

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 100,
}
DECODER = SMALL | {"max_position_embeddings": 64, "use_cache": False}
GROUPED = DECODER | {"num_key_value_heads": 2}

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

_VISION = {key: value for key, value in SMALL.items() if key != "vocab_size"}
_GROUPED_CACHE = SMALL | {"num_key_value_heads": 2, "max_position_embeddings": 64}
_BOXES = ("logits", "pred_boxes")
_WHISPER = _SEQ2SEQ | {
    "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_WHISPER.pop("max_position_embeddings")


def _detr(kind: str, **config: Any) -> Example:
    """A detector on a small ResNet of transformers."""
    import transformers

    stages = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    settings = transformers.RTDetrResNetConfig if kind == "RTDetr" else transformers.ResNetConfig
    outputs = ["stage2", "stage3", "stage4"] if kind == "RTDetr" else ["stage4"]
    backbone = settings(**stages, out_features=outputs)
    return image(kind, 64, "ForObjectDetection", _BOXES, backbone_config=backbone, **config)


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
    **{name: functools.partial(text, kind, **config) for name, (kind, config) in _TEXT.items()},
    **{
        name.split("_224")[0]: functools.partial(timm_image, name, _TIMM_SIZES.get(name, 64), **config)
        for name, config in _TIMM.items()
    },
    "resnet": functools.partial(timm_image, "resnet10t"),
    "mobilenetv3": functools.partial(timm_image, "mobilenetv3_small_075"),
    "nystromformer": functools.partial(
        fixed_text, "Nystromformer", 64, **SMALL, segment_means_seq_len=64, num_landmarks=8
    ),
    "bart": functools.partial(encoder_decoder, "Bart", **_SEQ2SEQ),
    "marian": functools.partial(encoder_decoder, "Marian", **_SEQ2SEQ, pad_token_id=0),
    "t5": functools.partial(encoder_decoder, "T5", **_T5),
    "mt5": functools.partial(encoder_decoder, "MT5", **_T5),
    "vit-hf": functools.partial(image, "ViT", **_VIT),
    "dinov2": functools.partial(image, "Dinov2", **{k: v for k, v in _VIT.items() if k != "intermediate_size"}),
    "clip-vision": functools.partial(image, "CLIPVision", **_VIT),
    "siglip-vision": functools.partial(image, "SiglipVision", **_VIT),
    "wav2vec2": functools.partial(audio, "Wav2Vec2", **_AUDIO),
    "hubert": functools.partial(audio, "Hubert", **_AUDIO),
    "mixtral": functools.partial(mixture, "Mixtral", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": functools.partial(
        mixture,
        "Qwen2Moe",
        **GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "lstm": functools.partial(recurrent, "LSTM"),
    "gru": functools.partial(recurrent, "GRU"),
    "bi-lstm": functools.partial(recurrent, "LSTM", both=True),
    "unet": unet,
    "llama-cached": functools.partial(cached_decoder, "Llama", heads=2, size=8, **_GROUPED_CACHE),
    "qwen3-cached": functools.partial(cached_decoder, "Qwen3", heads=2, size=8, head_dim=8, **_GROUPED_CACHE),
    "gpt2-cached": functools.partial(
        cached_decoder, "GPT2", heads=4, size=8, n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=64
    ),
    "gpt-neox-cached": functools.partial(
        cached_decoder, "GPTNeoX", heads=4, size=8, **SMALL, max_position_embeddings=64
    ),
    "whisper": functools.partial(whisper, **_WHISPER),
    "ast": functools.partial(spectrogram, "AST", **_VISION, patch_size=8, max_length=64, num_mel_bins=32),
    "clip": functools.partial(
        two_towers,
        "CLIP",
        SMALL | {"max_position_embeddings": 64, "projection_dim": 16, "eos_token_id": 2},
        _VIT | {"projection_dim": 16},
        projection_dim=16,
    ),
    "yolos": functools.partial(
        image,
        "Yolos",
        64,
        "ForObjectDetection",
        _BOXES,
        **_VISION,
        patch_size=16,
        image_size=[64, 64],
        num_detection_tokens=5,
    ),
    "detr": functools.partial(
        _detr,
        "Detr",
        d_model=32,
        num_queries=6,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
    ),
    "rt-detr": functools.partial(
        _detr,
        "RTDetr",
        d_model=32,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 24, 32],
        feat_strides=[8, 16, 32],
        encoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_in_channels=[32, 32, 32],
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        num_queries=10,
        num_labels=7,
    ),
    "segformer": functools.partial(
        image,
        "Segformer",
        64,
        "ForSemanticSegmentation",
        ("logits",),
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
        num_labels=7,
    ),
    "dpt": functools.partial(
        image,
        "DPT",
        64,
        "ForDepthEstimation",
        ("predicted_depth",),
        **_VISION | {"num_hidden_layers": 4},
        patch_size=16,
        image_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
    ),
    "torch-transformer": functools.partial(transformer, first=False),
    "torch-transformer-pre": functools.partial(transformer, first=True),
}
