"""ONNX Runtime: one implementation, one subclass per execution provider.

The artifact is the ONNX file itself, copied with its external data; the runtime optimizes it anew when a session is
opened, since its optimized form depends on the processor. What it makes of the graph is read from the optimized file
that it writes at build time.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from enginery.engines.base import Arrays, Artifact, BuildSpec, DimRange, Engine, Feeds, Session, Sizes
from enginery.engines.kernels import kernel_facts
from enginery.engines.onnx_file.check import check_model
from enginery.engines.onnx_file.copy import copy_model
from enginery.engines.onnxruntime_kernels import read_kernels
from enginery.engines.onnxruntime_options import SLOW_ON_CPU, UNASKED, SessionOptions
from enginery.errors import EngineError, MissingDependencyError

if TYPE_CHECKING:
    import onnxruntime


ENTRY: Final = "model.onnx"
CPU: Final = "CPUExecutionProvider"
_WEIGHTS_FILE: Final = "session.optimized_model_external_initializers_file_name"
_ASSIGNMENT: Final = "session.record_ep_graph_assignment_info"

_DTYPES: Final = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(uint16)": "uint16",
    "tensor(int32)": "int32", "tensor(uint32)": "uint32", "tensor(int64)": "int64", "tensor(uint64)": "uint64",
}  # fmt: skip


def import_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off; from version 1.29 on it opens connections at import otherwise.

    Raises:
        MissingDependencyError: it is not installed, or two packages that share its folder have overwritten each other.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"onnxruntime cannot be imported ({error}). Install enginery[cpu], or enginery[gpu] on a machine "
            "with an NVIDIA GPU; never both, since they share one folder."
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingDependencyError(
            "onnxruntime is damaged: its folder has no InferenceSession, which happens when onnxruntime and "
            "onnxruntime-gpu were both installed. Uninstall both, then install one."
        )
    return onnxruntime


def open_model(model: Path, *, optimize: bool = False, threads: int | None = None) -> RunModel:
    """Open an ONNX file on the CPU for passes: calibration, proofs, sensitivity.

    With `optimize=False` the graph runs literally, node by node. `threads=None` means one per physical core.

    Raises:
        InvalidModelError: the file is hostile or damaged.
        EngineError: ONNX Runtime refuses the model.
    """
    ort = import_onnxruntime()
    check_model(model)
    options = SessionOptions(threads=threads or 0, optimization="all" if optimize else "disabled")
    session_options = options.session_options(ort)
    # A pattern of the first run's memory is one block that the second run allocates beside what the first left.
    session_options.enable_mem_pattern = False
    # Idle threads that spin between two runs would take a core from what the pass does there.
    session_options.add_session_config_entry("session.force_spinning_stop", "1")
    return RunModel(_open(ort, model, session_options, [CPU]))


class RunModel:
    """A model opened for passes: feeds by name in, every output by name out (`passes.base.RunModel`)."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.outputs = [output.name for output in session.get_outputs()]

    def __call__(self, feeds: Feeds) -> Arrays:
        return _run(self.session, self.outputs, feeds)


class OnnxRuntimeSession(Session):
    """A session of ONNX Runtime on the provider that its target names."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        spec: BuildSpec,
        description: Mapping[str, Any],
    ) -> None:
        super().__init__(spec.inputs, spec.outputs, spec.dims)
        self._session: onnxruntime.InferenceSession | None = session
        self._names = [output.name for output in spec.outputs]
        self._description = description

    def _run(self, feeds: Feeds) -> Arrays:
        assert self._session is not None
        return _run(self._session, self._names, feeds)

    def describe(self) -> dict[str, Any]:
        return dict(self._description)

    def close(self) -> None:
        super().close()
        self._session = None


class OnnxRuntime(Engine):
    """What the three targets share. `provider` is ONNX Runtime's name of the execution provider."""

    provider: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}
    fragile: ClassVar[tuple[str, ...]] = ()
    """Optimizers that fail on models that are not at fault: withdrawn where a model opens only without them."""

    advice: ClassVar[str]

    def check_options(self, options: Mapping[str, Any], dims: Mapping[str, DimRange], shapes: Sequence[Sizes]) -> None:
        del dims, shapes
        SessionOptions.parse(options, self.defaults, self.target)

    at_run: ClassVar[frozenset[str]] = frozenset(
        {"threads", "spinning", "memory_arena", "optimization", "disabled_optimizers", "config"}
    )

    def cannot_build(self) -> str | None:
        try:
            ort = import_onnxruntime()
        except MissingDependencyError as error:
            return str(error)
        available = ort.get_available_providers()
        if self.provider not in available:
            return (
                f"onnxruntime {ort.__version__} has the providers {', '.join(available)}; "
                f"{self.target} needs {self.provider}. {self.advice}"
            )
        return None

    def cannot_run(self) -> str | None:
        return self.cannot_build()

    def build(self, model: Path, folder: Path, spec: BuildSpec) -> Artifact:
        self._require()
        options = SessionOptions.parse(spec.options, self.defaults, self.target)
        copy_model(model, folder / ENTRY)
        withdrawn: dict[str, str] = {}
        try:
            kernels = self._optimize(folder / ENTRY, spec, options)
        except EngineError as error:
            if not set(self.fragile) - set(options.disabled_optimizers):
                raise
            # Unless the model itself is at fault, it opens without these optimizers; then they were.
            options = replace(options, disabled_optimizers=(*options.disabled_optimizers, *self.fragile))
            kernels = self._optimize(folder / ENTRY, spec, options)
            withdrawn = dict.fromkeys(self.fragile, str(error))
        facts = {**_description(import_onnxruntime(), self.provider, options), "kernels": kernels}
        if withdrawn:
            facts["withdrawn_optimizers"] = withdrawn
        return Artifact(folder, ENTRY, options.to_json(), facts)

    def _optimize(self, path: Path, spec: BuildSpec, options: SessionOptions) -> dict[str, Any]:
        """Let the runtime optimize the file at `path`; return the kernels that it chose."""
        ort = import_onnxruntime()
        with tempfile.TemporaryDirectory(prefix="enginery-ort-") as temporary:
            optimized = Path(temporary) / "optimized.onnx"
            session_options = options.session_options(ort)
            session_options.optimized_model_filepath = str(optimized)
            # Weights go to a file of their own: protobuf holds 2 GB, and the kernels are read without them.
            session_options.add_session_config_entry(_WEIGHTS_FILE, "weights")
            session = self._open(ort, path, session_options, options)
            self._check_signature(session, spec)
            return kernel_facts(read_kernels(optimized))

    def load(self, artifact: Artifact, spec: BuildSpec) -> Session:
        self._require()
        options = SessionOptions.parse(artifact.options, {}, self.target)
        check_model(artifact.path)
        ort = import_onnxruntime()
        session = self._open(ort, artifact.path, options.session_options(ort), options)
        self._check_signature(session, spec)
        return OnnxRuntimeSession(session, spec, _description(ort, self.provider, options))

    def _require(self) -> None:
        if reason := self.cannot_run():
            raise EngineError(f"{self.target} is not available here: {reason}")

    def _open(
        self, ort: Any, path: Path, session_options: Any, options: SessionOptions
    ) -> onnxruntime.InferenceSession:
        disabled = list(options.disabled_optimizers)
        return _open(ort, path, session_options, [CPU], disabled_optimizers=disabled)

    def _check_signature(self, session: onnxruntime.InferenceSession, spec: BuildSpec) -> None:
        """The runtime's inputs and outputs must be the declared ones, in name, dtype and rank."""
        for kind, declared, found in (
            ("input", spec.inputs, session.get_inputs()),
            ("output", spec.outputs, session.get_outputs()),
        ):
            actual = {item.name: item for item in found}
            if missing := [item.name for item in declared if item.name not in actual]:
                raise EngineError(f"The model has the {kind}s {sorted(actual)}; declared but absent: {missing}.")
            if kind == "input" and (extra := sorted(set(actual) - {item.name for item in declared})):
                raise EngineError(f"The model needs the inputs {extra}, which are not declared.")
            for item in declared:
                shape = list(actual[item.name].shape)
                dtype = _DTYPES.get(actual[item.name].type, actual[item.name].type)
                if dtype != item.dtype or len(shape) != len(item.shape):
                    raise EngineError(f"The {kind} {item.name!r} is {dtype}{shape} in the model; declared: {item}.")


class OnnxRuntimeCpu(OnnxRuntime):
    target = "onnxruntime-cpu"
    policy = "onnxruntime-cpu"
    provider = CPU
    defaults: ClassVar[Mapping[str, Any]] = {"disabled_optimizers": SLOW_ON_CPU}
    # Of 1.31.1, it inserts a Reshape to a shape of 0 in a MobileNetV3 with dynamic height and width.
    fragile: ClassVar[tuple[str, ...]] = ("NchwcTransformer",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"disabled_optimizers": ()},
        {"spinning": False},
        {"memory_arena": False},
        {"threads": 1},
        {"config": {"session.disable_prepacking": "1"}},
    )
    advice = "Install enginery[cpu]."


class _OnGpu(OnnxRuntime):
    """GPU providers: a node that ends up on the CPU unasked is an error."""

    def _open(
        self, ort: Any, path: Path, session_options: Any, options: SessionOptions
    ) -> onnxruntime.InferenceSession:
        if options.cpu_nodes:
            session_options.add_session_config_entry(_ASSIGNMENT, "1")
        else:
            session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(self.provider, dict(options.provider))]
        disabled = list(options.disabled_optimizers)
        session = _open(ort, path, session_options, providers, disabled_optimizers=disabled)
        # The Python class would otherwise retry a failed run on the CPU by itself.
        session.disable_fallback()
        check_provider(session.get_providers(), self.provider)
        if options.cpu_nodes:
            check_assignment(session.get_provider_graph_assignment_info(), options.cpu_nodes)
        return session


class OnnxRuntimeCuda(_OnGpu):
    target = "onnxruntime-cuda"
    policy = "onnxruntime-cpu"
    provider = "CUDAExecutionProvider"
    advice = "Uninstall onnxruntime and install enginery[gpu] on a machine with an NVIDIA GPU and its driver."


class OnnxRuntimeTensorRT(_OnGpu):
    target = "onnxruntime-tensorrt"
    policy = "tensorrt"
    provider = "TensorrtExecutionProvider"
    advice = OnnxRuntimeCuda.advice


def check_provider(providers: Sequence[str], wanted: str) -> None:
    """Raise EngineError when the provider that was asked for is not the first one in use."""
    if not providers or providers[0] != wanted:
        raise EngineError(
            f"{wanted} was asked for; onnxruntime uses {', '.join(providers) or 'none'}: "
            "the provider's libraries could not be loaded. "
            "`enginery doctor` says which CUDA, cuDNN and driver versions were found."
        )


def check_assignment(subgraphs: Sequence[Any], allowed: Sequence[str]) -> None:
    """Raise EngineError when a node runs on the CPU whose operator is not in `allowed`."""
    strays = [
        f"{node.name or node.op_type} ({node.op_type})"
        for subgraph in subgraphs
        if subgraph.ep_name == CPU
        for node in subgraph.get_nodes()
        if node.op_type not in allowed
    ]
    if strays:
        raise EngineError(
            f"{len(strays)} nodes would run on the CPU: {', '.join(strays[:5])}{', …' if len(strays) > 5 else ''}. "
            "Allow their operators with `cpu_nodes`, or change the model."
        )


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its exceptions share no base class."""
    # The extension module has no types.
    state: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NoModel", "NotImplemented",
             "RuntimeException", "EPFail", "EngineError", "NotFound", "ModelLoaded")  # fmt: skip
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names if hasattr(state, name)))


def _open(
    ort: Any, path: Path, options: Any, providers: Sequence[Any], disabled_optimizers: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    disabled = [*disabled_optimizers, *UNASKED]
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers), disabled_optimizers=disabled)
    except runtime_errors() as error:
        raise EngineError(f"{path.name}: onnxruntime {ort.__version__} refuses the model: {error}") from error


def _run(session: onnxruntime.InferenceSession, names: list[str], feeds: Feeds) -> Arrays:
    try:
        values: Sequence[Any] = session.run(names, dict(feeds))
    except runtime_errors() as error:
        shapes = {name: f"{array.dtype}{list(array.shape)}" for name, array in feeds.items()}
        raise EngineError(f"onnxruntime failed on the inputs {shapes}: {_said(error)}") from error
    return dict(zip(names, values, strict=True))


_FAILURE: Final = re.compile(r"running (\w+) node\. Name:'([^']*)' Status Message: (?:/\S+:\d+ .*?\) )?(.*)", re.DOTALL)


def _said(error: Exception) -> str:
    """The node that failed and the reason, where onnxruntime names them among its own files and signatures."""
    found = _FAILURE.search(str(error))
    if found is None:
        return str(error).strip()
    operator, name, reason = found.groups()
    return f"{operator} node {name!r}: {' '.join(reason.split())}"


def _description(ort: Any, provider: str, options: SessionOptions) -> dict[str, Any]:
    return {
        "runtime": "onnxruntime",
        "version": ort.__version__,
        "provider": provider,
        "threads": options.threads,
        "optimization": options.optimization,
        "disabled_optimizers": list(options.disabled_optimizers),
    }
