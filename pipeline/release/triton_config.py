"""The `config.pbtxt` of a bundle for Triton Inference Server, as a message of Triton's own schema.

Reference: the model configuration and the ONNX Runtime and TensorRT backends of Triton.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from enginery.engines.base import TensorSpec
from enginery.errors import UsageError
from enginery.pipeline.bundle.manifest import Manifest
from enginery.pipeline.extras import missing
from enginery.pipeline.release import triton_onnxruntime
from enginery.pipeline.release.batching import BatchPlan

DATA_TYPES: Final = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "bool": "TYPE_BOOL",
    "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32", "uint64": "TYPE_UINT64",
}  # fmt: skip


@dataclass(frozen=True)
class Warmup:
    """One warm-up request: raw bytes by input, each under `warmup/<file>`; dims without the batch dimension."""

    name: str
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    """Input name -> (file, dims)."""


@dataclass(frozen=True)
class Plan:
    """Everything that a configuration says beyond the manifest."""

    name: str
    batch: str | None
    """The batch dimension's name, or None where the model has no batch dimension that Triton can use."""

    max_batch: int
    filename: str
    batching: BatchPlan | None = None
    warmups: tuple[Warmup, ...] = ()
    by_capability: Mapping[str, str] = field(default_factory=dict[str, str])
    keep_versions: int = 1
    instances: int = 1


def schema() -> Any:
    """Triton's protobuf schema, `model_config_pb2`.

    Raises:
        MissingDependencyError: tritonclient is absent.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise missing(error, "triton", "A Triton model repository") from error
    return cast("Any", model_config_pb2)


def batch_dim(manifest: Manifest) -> str | None:
    """The dimension that leads every input and output and nothing else: the one Triton may batch along."""
    tensors = (*manifest.inputs, *manifest.outputs)
    leading = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
    elsewhere = {dim for tensor in tensors for dim in tensor.shape[1:]}
    if len(leading) != 1:
        return None
    (name,) = leading
    return name if isinstance(name, str) and name in manifest.dims and name not in elsewhere else None


def model_config(manifest: Manifest, chosen: Plan) -> Any:
    """The configuration as a `ModelConfig` message.

    Raises:
        UsageError: Triton has no backend for the target, or no data type for an input or output.
        MissingDependencyError: tritonclient is absent.
    """
    triton = schema()
    config = triton.ModelConfig(
        name=chosen.name,
        platform=platform(manifest.target),
        backend=backend(manifest.target),
        max_batch_size=chosen.max_batch,
        default_model_filename=chosen.filename,
        cc_model_filenames=dict(chosen.by_capability),
    )
    for kind, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            getattr(config, kind).add(
                name=tensor.name,
                data_type=triton.DataType.Value(_data_type(tensor.spec)),
                dims=list(dims(tensor.spec, chosen.batch)),
            )
    config.version_policy.latest.num_versions = chosen.keep_versions
    on_gpu = manifest.target != "onnxruntime-cpu"
    group = triton.ModelInstanceGroup
    config.instance_group.add(count=chosen.instances, kind=group.KIND_GPU if on_gpu else group.KIND_CPU)
    if chosen.batching is not None and chosen.batching.preferred is not None:
        config.dynamic_batching.preferred_batch_size.append(chosen.batching.preferred)
        config.dynamic_batching.max_queue_delay_microseconds = chosen.batching.delay_us
    if manifest.target.startswith("onnxruntime"):
        triton_onnxruntime.configure(config, manifest)
    for warmup in chosen.warmups:
        _add_warmup(config, warmup, manifest)
    return config


def platform(target: str) -> str:
    """Triton's name of the platform for a target.

    Raises:
        UsageError: the target is not exported to Triton.
    """
    if target in {"onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt"}:
        return "onnxruntime_onnx"
    if target == "tensorrt":
        return "tensorrt_plan"
    raise UsageError(
        f"An engine for {target} is not exported to Triton; those for onnxruntime-cpu, onnxruntime-cuda, "
        "onnxruntime-tensorrt and tensorrt are. Build the recipe for one of these."
    )


def backend(target: str) -> str:
    return "tensorrt" if target == "tensorrt" else "onnxruntime"


def dims(spec: TensorSpec, batch: str | None) -> Iterator[int]:
    """Triton's dims: without the batch dimension, -1 where the size varies."""
    shape = spec.shape[1:] if batch is not None else spec.shape
    for dim in shape:
        yield dim if isinstance(dim, int) else -1


def _data_type(spec: TensorSpec) -> str:
    if spec.dtype not in DATA_TYPES:
        raise UsageError(f"Triton has no data type for {spec}. It has: {', '.join(DATA_TYPES)}.")
    return DATA_TYPES[spec.dtype]


def _add_warmup(config: Any, warmup: Warmup, manifest: Manifest) -> None:
    triton = schema()
    entry = config.model_warmup.add(name=warmup.name, batch_size=1)
    types = {tensor.name: _data_type(tensor.spec) for tensor in manifest.inputs}
    for name, (file, shape) in sorted(warmup.inputs.items()):
        value = entry.inputs[name]
        value.data_type = triton.DataType.Value(types[name])
        value.dims.extend(shape)
        value.input_data_file = file
