"""OpenVINO on the CPU.

The artifact is OpenVINO's IR (`model.xml` and `model.bin`), made from the ONNX file with the declared bounds of every
dynamic dimension. The precision of inference is always explicit: left alone, OpenVINO computes float graphs in
bfloat16 on processors that have it, without a word (measured on 2026.4).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from enginery.engines.base import Arrays, Artifact, BuildSpec, DimRange, Engine, Feeds, Session, Sizes, TensorSpec
from enginery.engines.onnx_file.check import check_model
from enginery.engines.openvino_options import OpenVinoOptions
from enginery.errors import EngineError, MissingDependencyError, UsageError

ENTRY: Final = "model.xml"

_INTEGER: Final = {"i8", "u8", "i4", "u4"}
_FLOAT: Final = {"f32", "f16", "bf16"}
_HEAVY: Final = {"Convolution", "GroupConvolution", "Deconvolution", "MatMul", "FullyConnected", "RNNSeq", "RNNCell"}
_HEAVY_FUSED: Final = {"ScaledDotProductAttention", "ScaledDotProductAttentionWithKVCache", "LLMMLP", "QKVProjection"}


def import_openvino() -> Any:
    """Import openvino without its telemetry package, which writes a client id and opens connections.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if "openvino" not in sys.modules:
        # A None entry makes the import fail; OpenVINO then falls back to its own silent stand-in.
        sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(f"openvino cannot be imported ({error}). Install enginery[openvino].") from error
    return openvino


class _Network:
    """A compiled model; every thread has an inference request of its own."""

    def __init__(self, compiled: Any, outputs: tuple[TensorSpec, ...]) -> None:
        self._compiled: Any = compiled
        self._requests = threading.local()
        self._ports = {output.name: _port(compiled.outputs, output, "output") for output in outputs}

    def run(self, feeds: Feeds) -> Arrays:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        # Inputs are read where they are. The request reuses its buffers in the next run, so results are copied out.
        results = request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return {name: results[port].copy() for name, port in self._ports.items()}


class OpenVinoSession(Session):
    """The compiled model, and those of fixed shape, each of which runs what has exactly its shape."""

    def __init__(
        self, compiled: Any, fixed: Sequence[tuple[Sizes, Any]], spec: BuildSpec, description: Mapping[str, Any]
    ) -> None:
        super().__init__(spec.inputs, spec.outputs, spec.dims)
        self._networks: dict[tuple[tuple[int, ...], ...] | None, _Network] = {
            _shapes(spec.inputs, sizes): _Network(each, spec.outputs) for sizes, each in fixed
        }
        self._networks[None] = _Network(compiled, spec.outputs)
        self._description = description

    def _run(self, feeds: Feeds) -> Arrays:
        shapes = tuple(feeds[item.name].shape for item in self.inputs)
        network = self._networks.get(shapes, self._networks[None])
        try:
            return network.run(feeds)
        except RuntimeError as error:
            given = {name: f"{array.dtype}{list(array.shape)}" for name, array in feeds.items()}
            raise EngineError(f"OpenVINO failed on the inputs {given}: {_last_line(error)}") from error

    def describe(self) -> dict[str, Any]:
        return dict(self._description)

    def close(self) -> None:
        super().close()
        self._networks.clear()


class OpenVinoCpu(Engine):
    target: ClassVar[str] = "openvino-cpu"
    policy: ClassVar[str] = "openvino"
    native: ClassVar[frozenset[str]] = frozenset({"bf16"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"static_shapes": True}, {"threads": 1})
    variants_quantized: ClassVar[tuple[Mapping[str, Any], ...]] = ({"inference_precision": "bf16"},)
    specializes: ClassVar[bool] = True
    at_run: ClassVar[frozenset[str]] = frozenset({"threads"})

    def cannot_build(self) -> str | None:
        try:
            import_openvino()
        except MissingDependencyError as error:
            return str(error)
        return None

    def cannot_run(self) -> str | None:
        return self.cannot_build()

    def check_options(self, options: Mapping[str, Any], dims: Mapping[str, DimRange], shapes: Sequence[Sizes]) -> None:
        OpenVinoOptions.parse(options).check(dims, shapes)

    def build(self, model: Path, folder: Path, spec: BuildSpec) -> Artifact:
        openvino = import_openvino()
        options = _options(spec)
        check_model(model)
        network = _read(openvino, model)
        _bound(openvino, network, spec)
        openvino.save_model(network, str(folder / ENTRY), compress_to_fp16=False)
        for file in folder.iterdir():
            file.chmod(0o644)
        compiled = _compile(openvino, _read(openvino, folder / ENTRY), options)
        for sizes in options.fixed:
            _compile_fixed(openvino, folder / ENTRY, options, spec, sizes)
        facts = {**_description(openvino, compiled, options), "kernels": _kernels(compiled)}
        return Artifact(folder, ENTRY, options.record(), facts)

    def load(self, artifact: Artifact, spec: BuildSpec) -> Session:
        openvino = import_openvino()
        options = OpenVinoOptions.parse(artifact.options)
        compiled = _compile(openvino, _read(openvino, artifact.path), options)
        for item in spec.inputs:
            _port(compiled.inputs, item, "input")
        fixed = [(sizes, _compile_fixed(openvino, artifact.path, options, spec, sizes)) for sizes in options.fixed]
        return OpenVinoSession(compiled, fixed, spec, _description(openvino, compiled, options))


def _options(spec: BuildSpec) -> OpenVinoOptions:
    """The options of a build: `precision: bf16` of the recipe is the engine's inference precision.

    Of a quantized graph only the float rest is meant, and the option chooses its precision.

    Raises:
        UsageError: an option is wrong, or contradicts the precision.
    """
    wanted = "bf16" if spec.precision == "bf16" else "f32"
    options = OpenVinoOptions.parse({"inference_precision": wanted, **spec.options})
    if options.inference_precision != wanted and not spec.quantized:
        raise UsageError(
            f"`inference_precision` of openvino-cpu is {options.inference_precision!r} and the recipe's precision is "
            f"{spec.precision}, which is {wanted!r} there. Remove the option, or change `precision`."
        )
    return options.at(spec.shapes)


def _read(openvino: Any, path: Path) -> Any:
    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise EngineError(
            f"{path.name}: OpenVINO {openvino.get_version()} refuses the model: {_last_line(error)}"
        ) from error


def _bound(openvino: Any, network: Any, spec: BuildSpec) -> None:
    """Give every dynamic dimension its declared range, which the plugin uses to choose kernels and memory."""
    shapes: dict[str, Any] = {}
    for item in spec.inputs:
        _port(network.inputs, item, "input")
        dims = [
            openvino.Dimension(size)
            if isinstance(size, int)
            else openvino.Dimension(spec.dims[size].min, spec.dims[size].max)
            for size in item.shape
        ]
        shapes[item.name] = openvino.PartialShape(dims)
    try:
        network.reshape(shapes)
    except RuntimeError as error:
        ranges = {name: f"{dim.min}..{dim.max}" for name, dim in spec.dims.items()}
        raise EngineError(
            f"OpenVINO cannot give the model the declared dimensions {ranges}: {_last_line(error)}"
        ) from error


def _compile(openvino: Any, network: Any, options: OpenVinoOptions) -> Any:
    try:
        compiled = openvino.Core().compile_model(network, "CPU", options.properties())
    except RuntimeError as error:
        raise EngineError(f"OpenVINO {openvino.get_version()} cannot compile the model: {_last_line(error)}") from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != options.inference_precision:
        raise EngineError(
            f"inference precision {options.inference_precision} was asked for; OpenVINO uses {used} on this processor. "
            "Set `inference_precision` to what the processor has."
        )
    return compiled


def _compile_fixed(openvino: Any, path: Path, options: OpenVinoOptions, spec: BuildSpec, sizes: Sizes) -> Any:
    """The same model for one shape: kernels that know their sizes are up to a fifth faster on small inputs."""
    network = _read(openvino, path)
    try:
        network.reshape(dict(zip((item.name for item in spec.inputs), _shapes(spec.inputs, sizes), strict=True)))
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot fix the model's dimensions at {sizes}: {_last_line(error)}") from error
    return _compile(openvino, network, options)


def _shapes(inputs: Sequence[TensorSpec], sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sizes[dim] if isinstance(dim, str) else dim for dim in item.shape) for item in inputs)


def _port(ports: Any, item: TensorSpec, kind: str) -> Any:
    found = next((port for port in ports if item.name in port.get_names()), None)
    if found is None:
        given = sorted(name for port in ports for name in port.get_names())
        raise EngineError(f"The model has the {kind}s {given}; declared but absent: {item.name!r}.")
    dtype = found.element_type.to_dtype().name
    if dtype != item.dtype or len(found.partial_shape) != len(item.shape):
        raise EngineError(f"The {kind} {item.name!r} is {dtype}{found.partial_shape} in the model; declared: {item}.")
    return found


def _kernels(compiled: Any) -> dict[str, Any]:
    """Which kernels run, from the plugin's own execution graph; the shape is that of `onnxruntime_kernels`."""
    nodes = [_kernel(operation) for operation in compiled.get_runtime_model().get_ordered_ops()]
    nodes = [node for node in nodes if node["op"] not in ("Input", "Output", "Const", "Constant", "Result")]
    kinds = ("integer", "weight-only", "quantize", "float", "other")
    return {
        "counts": {kind: sum(node["kind"] == kind for node in nodes) for kind in kinds},
        "heavy": {kind: sum(node["kind"] == kind and node["heavy"] for node in nodes) for kind in kinds},
        "nodes": [node for node in nodes if node["kind"] != "other"],
    }


def _kernel(operation: Any) -> dict[str, Any]:
    info = operation.get_rt_info()
    op, precision = info["layerType"].astype(str), info["runtimePrecision"].astype(str)
    if op in ("FakeQuantize", "Reorder", "Convert"):
        kind = "quantize" if op == "FakeQuantize" else "other"
    elif precision in _INTEGER:
        kind = "integer"
    else:
        kind = "float" if precision in _FLOAT else "other"
    heavy = op in _HEAVY or op in _HEAVY_FUSED
    return {"node": operation.get_friendly_name(), "op": op, "kind": kind, "heavy": heavy}


def _description(openvino: Any, compiled: Any, options: OpenVinoOptions) -> dict[str, Any]:
    return {
        "runtime": "openvino",
        "version": openvino.get_version(),
        "provider": ", ".join(compiled.get_property("EXECUTION_DEVICES")),
        "threads": options.threads,
        "inference_precision": options.inference_precision,
        "static_shapes": [", ".join(f"{dim}={size}" for dim, size in each.items()) for each in options.fixed],
    }


def _last_line(error: RuntimeError) -> str:
    """OpenVINO's errors begin with the C++ files they passed through; the last line says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
