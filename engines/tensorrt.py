"""TensorRT and TensorRT-RTX: one implementation that takes the Python module as a parameter.

Networks are strongly typed: precision lives in the ONNX graph (casts, typed initializers, symmetric Q/DQ), the only
form that TensorRT 10.12+, 11 and RTX all take. TensorRT-RTX parses and builds without a GPU; running needs one, and
full TensorRT needs one for building too, since it times its kernels on the device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

from enginery.engines import plan, trust
from enginery.engines.base import Artifact, BuildSpec, Engine, Session
from enginery.engines.cuda import devices, no_gpu_reason
from enginery.engines.kernels import kernel_facts
from enginery.engines.model_check import check_model
from enginery.engines.tensorrt_layers import read_layers
from enginery.engines.tensorrt_log import BuildLog, Problem, parser_problems
from enginery.engines.tensorrt_options import BuildOptions, apply_options, refuse_unsupported
from enginery.errors import EngineError

ENTRY: Final = "engine.plan"
LOG: Final = "build.log"


class _TensorRT(Engine):
    """What both targets share. `module` is the name of the Python module."""

    policy = "tensorrt"
    module: ClassVar[str]
    package: ClassVar[str]
    """What to install, in words."""

    rtx: ClassVar[bool]
    least: ClassVar[tuple[int, int]]
    """The oldest version that is supported."""

    def cannot_build(self) -> str | None:
        try:
            trt = import_module(self.module)
        except ImportError as error:
            return f"the Python module {self.module} is not installed ({error}). {self.package}"
        version: str = trt.__version__
        if _numbers(version)[:2] < self.least:
            least = ".".join(map(str, self.least))
            return f"{self.module} {version} is installed; {least} or newer is needed. {self.package}"
        return None if self.rtx else no_gpu_reason()

    def cannot_run(self) -> str | None:
        return self.cannot_build() or no_gpu_reason()

    def build(self, model: Path, folder: Path, spec: BuildSpec) -> Artifact:
        if reason := self.cannot_build():
            raise EngineError(f"{self.target} cannot build here: {reason}")
        trt = import_module(self.module)
        options = BuildOptions.parse(spec.options, self.target)
        refuse_unsupported(options, rtx=self.rtx, target=self.target, version=trt.__version__)
        check_model(model)
        log = BuildLog()
        try:
            serialized = _build(trt, model, spec, options, log, self.target)
        finally:
            log.write(folder / LOG)
        path = folder / ENTRY
        path.write_bytes(serialized)
        trust.accept(path)
        facts: dict[str, Any] = {
            "runtime": self.module,
            "version": trt.__version__,
            "kernels": kernel_facts(read_layers(log.messages("VERBOSE"))),
            "warnings": log.messages("WARNING"),
        }
        if self.rtx:
            facts["plan"] = plan.check_header(path, trt.__version__).to_json()
        return Artifact(folder, ENTRY, {**options.to_json(), "version": trt.__version__}, facts)

    def load(self, artifact: Artifact, spec: BuildSpec) -> Session:
        if reason := self.cannot_run():
            raise EngineError(f"{self.target} engines cannot run here: {reason}")
        from enginery.engines.tensorrt_session import TensorRTSession

        trt = import_module(self.module)
        recorded = dict(artifact.options)
        version = recorded.pop("version", None)
        if version != trt.__version__:
            raise EngineError(
                f"The plan was built by {self.module} {version}; installed is {trt.__version__}. "
                "A plan runs only on the version that built it: install that version, or build again."
            )
        options = BuildOptions.parse(recorded, self.target)
        device = devices()[options.device] if options.device < len(devices()) else None
        if device is None:
            raise EngineError(f"GPU {options.device} was asked for; this machine has {len(devices())}.")
        if self.rtx:
            plan.check_header(artifact.path, trt.__version__, device.capability)
        trust.require(artifact.path)
        return TensorRTSession(trt, artifact.path.read_bytes(), spec, options, rtx=self.rtx)


class TensorRT(_TensorRT):
    target = "tensorrt"
    module = "tensorrt"
    package = (
        "Install TensorRT 10.12 or newer on a machine with an NVIDIA GPU: `pip install enginery[gpu]` "
        "(pip fetches the libraries from NVIDIA's own index, https://pypi.nvidia.com). "
        "Without a GPU, build for the target tensorrt-rtx."
    )
    rtx = False
    least = (10, 12)


class TensorRTRTX(_TensorRT):
    target = "tensorrt-rtx"
    module = "tensorrt_rtx"
    package = "Install it with `pip install enginery[rtx]`; it builds without a GPU."
    rtx = True
    least = (1, 2)


def _build(trt: Any, model: Path, spec: BuildSpec, options: BuildOptions, log: BuildLog, target: str) -> bytes:
    builder = trt.Builder(log.logger(trt))
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(model)):
        raise EngineError(_refusal(target, trt, model, parser_problems(parser) or log.problems()))
    _check_signature(network, spec, model)
    config = builder.create_builder_config()
    apply_options(trt, config, options, target)
    for ranges in options.ranges(spec.dims):
        profile = builder.create_optimization_profile()
        for tensor in spec.inputs:
            if all(isinstance(dim, int) for dim in tensor.shape):
                continue
            bounds = [
                tuple(dim if isinstance(dim, int) else getattr(ranges[dim], end) for dim in tensor.shape)
                for end in ("min", "opt", "max")
            ]
            profile.set_shape(tensor.name, *bounds)
        if spec.dims and config.add_optimization_profile(profile) < 0:
            raise EngineError(_refusal(target, trt, model, log.problems()))
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(_refusal(target, trt, model, log.problems()))
    return bytes(serialized)


def _strongly_typed(trt: Any) -> int:
    # TensorRT 11 knows strongly typed networks only and may drop the flag.
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _check_signature(network: Any, spec: BuildSpec, model: Path) -> None:
    """The network's inputs and outputs must be the declared ones, by name and rank."""
    for kind, declared, found in (
        ("input", spec.inputs, [network.get_input(index) for index in range(network.num_inputs)]),
        ("output", spec.outputs, [network.get_output(index) for index in range(network.num_outputs)]),
    ):
        actual = {tensor.name: tensor for tensor in found}
        if set(actual) != {tensor.name for tensor in declared}:
            raise EngineError(
                f"{model.name} has the {kind}s {sorted(actual)}; declared are {sorted(t.name for t in declared)}."
            )
        for tensor in declared:
            shape = tuple(actual[tensor.name].shape)
            if len(shape) != len(tensor.shape):
                raise EngineError(
                    f"The {kind} {tensor.name!r} has shape {list(shape)} in TensorRT; declared: {tensor}."
                )
            if kind == "input" and actual[tensor.name].is_shape_tensor:
                raise EngineError(
                    f"The input {tensor.name!r} is used as a shape. An engine needs its range of values at build "
                    "time, which a recipe cannot say; make it a constant or compute it from another input's shape."
                )


def _refusal(target: str, trt: Any, model: Path, problems: Sequence[Problem]) -> str:
    lines = [f"  - {problem}" for problem in problems[:10]] or ["  - no reason given; see build.log"]
    if len(problems) > 10:
        lines.append(f"  - and {len(problems) - 10} more; see build.log")
    return f"{model.name}: {target} {trt.__version__} refuses the model:\n" + "\n".join(lines)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])
