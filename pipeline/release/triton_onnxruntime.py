"""What Triton's ONNX Runtime backend can be told of an engine's session options, and what it cannot.

Reference: how the backend reads a configuration (`src/onnxruntime.cc` of triton-inference-server/onnxruntime_backend).
An option of TensorRT that it does not know makes it refuse the model; one of CUDA it would pass over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from enginery.pipeline.bundle.manifest import Manifest

LEVELS: Final = {"disabled": 2, "basic": -1, "extended": 1, "layout": 0, "all": 0}
"""ONNX Runtime's optimization levels in the numbers of Triton's backend; 0 is its default, everything."""

PRECISIONS: Final = {"trt_fp16_enable": "FP16", "trt_bf16_enable": "BF16", "trt_int8_enable": "INT8"}
"""TensorRT's switches as values of Triton's one `precision_mode`."""

TENSORRT: Final = {
    "trt_max_workspace_size": "max_workspace_size_bytes",
    "trt_int8_calibration_table_name": "int8_calibration_table_name",
    "trt_int8_use_native_calibration_table": "int8_use_native_calibration_table",
    **{
        name: name
        for name in (
            "trt_auxiliary_streams", "trt_build_heuristics_enable", "trt_builder_optimization_level",
            "trt_context_memory_sharing_enable", "trt_cuda_graph_enable", "trt_detailed_build_log", "trt_dla_core",
            "trt_dla_enable", "trt_dump_ep_context_model", "trt_dump_subgraphs", "trt_engine_cache_enable",
            "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_ep_context_embed_mode",
            "trt_ep_context_file_path", "trt_extra_plugin_lib_paths", "trt_force_sequential_engine_build",
            "trt_force_timing_cache", "trt_layer_norm_fp32_fallback", "trt_max_partition_iterations",
            "trt_min_subgraph_size", "trt_profile_max_shapes", "trt_profile_min_shapes", "trt_profile_opt_shapes",
            "trt_sparsity_enable", "trt_tactic_sources", "trt_timing_cache_enable", "trt_timing_cache_path",
        )
    },
}  # fmt: skip
"""Options of ONNX Runtime's TensorRT provider -> the names under which Triton's backend takes them."""

CUDA: Final[Mapping[str, Mapping[str, str] | None]] = {
    "arena_extend_strategy": {"kNextPowerOfTwo": "0", "kSameAsRequested": "1"},
    "cudnn_conv_algo_search": {"EXHAUSTIVE": "0", "HEURISTIC": "1", "DEFAULT": "2"},
    "gpu_mem_limit": None,
}
"""Options of the CUDA provider that every version of the backend takes, with its numbers for their values."""

_TRUE: Final = frozenset({"1", "true"})


def configure(config: Any, manifest: Manifest) -> None:
    """Hand over the engine's session options, as far as Triton's backend takes them; `left_out` names the rest."""
    options = manifest.engine.options
    if level := LEVELS[options.get("optimization", "all")]:
        config.optimization.graph.level = level
    if options.get("threads"):
        config.parameters["intra_op_thread_count"].string_value = str(options["threads"])
    if options.get("memory_arena") is False:
        config.parameters["enable_mem_arena"].string_value = "0"
    provider: Mapping[str, str] = options.get("provider", {})
    if manifest.target != "onnxruntime-cpu" and "device_id" in provider:
        config.instance_group[0].gpus.append(int(provider["device_id"]))
    if manifest.target == "onnxruntime-tensorrt":
        accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
        accelerator.parameters.update(_tensorrt(provider))
    elif manifest.target == "onnxruntime-cuda":
        for name, value in _cuda(provider).items():
            config.parameters[name].string_value = value


def _tensorrt(provider: Mapping[str, str]) -> dict[str, str]:
    taken = {TENSORRT[name]: value for name, value in provider.items() if name in TENSORRT}
    if modes := _precisions(provider):
        taken["precision_mode"] = PRECISIONS[modes[0]]
    return taken


def _precisions(provider: Mapping[str, str]) -> list[str]:
    """The switches that are on; Triton takes one, and the first is handed over."""
    return [name for name in PRECISIONS if provider.get(name, "0").lower() in _TRUE]


def _cuda(provider: Mapping[str, str]) -> dict[str, str]:
    taken: dict[str, str] = {}
    for name, value in provider.items():
        values = CUDA.get(name)
        if name in CUDA and (values is None or value in values):
            taken[name] = value if values is None else values[value]
    return taken


def _left_of_provider(manifest: Manifest) -> list[str]:
    provider: Mapping[str, str] = manifest.engine.options.get("provider", {})
    if manifest.target == "onnxruntime-tensorrt":
        taken = {*TENSORRT, *_precisions(provider)[:1]} | {
            name for name in PRECISIONS if name not in _precisions(provider)
        }
    else:
        taken = set(_cuda(provider))
    return [f"{name}={value}" for name, value in provider.items() if name not in taken | {"device_id"}]


def left_out(manifest: Manifest) -> list[str]:
    """Session options of the engine that Triton's ONNX Runtime backend cannot be given."""
    if not manifest.target.startswith("onnxruntime"):
        return []
    options = manifest.engine.options
    found: list[str] = []
    if options.get("disabled_optimizers"):
        names = ", ".join(options["disabled_optimizers"])
        found.append(f"Triton cannot disable ONNX Runtime's optimizers {names}; the engine may be slower there")
    if options.get("spinning") is False:
        found.append("Triton's backend lets threads spin; the engine was built with `spinning: false`")
    found += [f"Triton's backend has no way to set `{key}={value}`" for key, value in options.get("config", {}).items()]
    if manifest.target != "onnxruntime-cpu":
        found += [
            f"Triton's backend has no way to set the provider's `{words}`" for words in _left_of_provider(manifest)
        ]
        found.append("Triton's backend may run nodes on the CPU that the GPU provider does not take, and says nothing")
    return found
