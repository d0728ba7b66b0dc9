"""TensorRT and TensorRT-RTX: one implementation that takes the Python module as a parameter.

Networks are strongly typed: precision lives in the ONNX graph (casts, typed initializers, symmetric Q/DQ), the only
form that TensorRT 10.12+, 11 and RTX all take. TensorRT-RTX parses and builds without a GPU; running needs one, and
full TensorRT needs one for building too, since it times its kernels on the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

from enginery.engines.base import Artifact, BuildSpec, DimRange, Engine, Session, TensorSpec
from enginery.engines.cuda.driver import Device, devices, no_gpu_reason
from enginery.engines.kernels import kernel_facts
from enginery.engines.onnx_file.check import check_model
from enginery.engines.onnx_file.copy import copy_model
from enginery.engines.tensorrt import plan, trust
from enginery.engines.tensorrt.layers import read_layers
from enginery.engines.tensorrt.log import BuildLog
from enginery.engines.tensorrt.options import BuildOptions, refuse_unsupported, settings_of
from enginery.engines.tensorrt.process import PlanBuilder, Request
from enginery.errors import EngineError, UsageError

ENTRY: Final = "engine.plan"
LOG: Final = "build.log"
WEIGHTS: Final = "weights/model.onnx"
"""The ONNX file that a stripped plan gets its weights from."""

MAX_PROBLEMS: Final = 10
"""An error names this many problems and counts the rest; all stand in the build log."""


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

    def builds_for(self) -> str:
        # Full TensorRT times its kernels on the device at hand.
        return "" if self.rtx else ", ".join(f"{device.name} {device.capability}" for device in devices())

    def cannot_run(self) -> str | None:
        return self.cannot_build() or no_gpu_reason()

    def check_options(
        self, options: Mapping[str, Any], dims: Mapping[str, DimRange], shapes: Sequence[Mapping[str, int]]
    ) -> None:
        parsed = BuildOptions.parse(options, self.target)
        trt = import_module(self.module)
        refuse_unsupported(parsed, rtx=self.rtx, target=self.target, version=trt.__version__)
        settings_of(trt, parsed, self.target)
        parsed.check_coverage(dims, shapes, self.target)

    def build(self, model: Path, folder: Path, spec: BuildSpec) -> Artifact:
        if reason := self.cannot_build():
            raise EngineError(f"{self.target} cannot build here: {reason}")
        trt = import_module(self.module)
        version: str = trt.__version__
        options = BuildOptions.parse(spec.options, self.target)
        refuse_unsupported(options, rtx=self.rtx, target=self.target, version=version)
        path = folder / ENTRY
        request = Request(
            model=model.name,
            inputs={tensor.name: len(tensor.shape) for tensor in spec.inputs},
            outputs={tensor.name: len(tensor.shape) for tensor in spec.outputs},
            shapes=[_profile(spec.inputs, ranges) for ranges in options.ranges(spec.dims)] if spec.dims else [],
            settings=settings_of(trt, options, self.target),
            timing_cache=self._timing_cache(spec, options, version),
        )
        with PlanBuilder(self.module, model.parent, path, device=self._device(options)) as builder:
            # The process imports TensorRT meanwhile; a model that is refused here never gets there.
            check_model(model)
            log = self._serialize(builder, request, folder / LOG, version)
        if options.strip_plan:
            (folder / WEIGHTS).parent.mkdir()
            copy_model(model, folder / WEIGHTS)
        warnings = log.messages("WARNING")
        try:
            trust.accept(path)
        except OSError as error:
            # A build machine may have a read-only home; the plan is good, only this user cannot load it unasked.
            warnings.append(f"the plan could not be recorded as built here ({error}); loading it here will be refused")
        facts: dict[str, Any] = {
            "runtime": self.module,
            "version": version,
            "kernels": kernel_facts(read_layers(log.messages("VERBOSE"))),
            "warnings": warnings,
        }
        if self.rtx:
            facts["plan"] = plan.check_header(path, version).to_json()
        elif options.device < len(found := devices()):
            # Full TensorRT builds for the GPU at hand; a server that has several kinds picks the plan by this.
            facts["capability"] = found[options.device].capability
        return Artifact(folder, ENTRY, {**options.to_json(), "version": version}, facts)

    def load(self, artifact: Artifact, spec: BuildSpec) -> Session:
        if reason := self.cannot_run():
            raise EngineError(f"{self.target} engines cannot run here: {reason}")
        from enginery.engines.tensorrt.session import TensorRTSession

        trt = import_module(self.module)
        recorded = dict(artifact.options)
        version = recorded.pop("version", None)
        if version != trt.__version__:
            raise EngineError(
                f"The plan was built by {self.module} {version}; installed is {trt.__version__}. "
                "A plan runs only on the version that built it: install that version, or build again."
            )
        options = BuildOptions.parse(recorded, self.target)
        found = devices()
        if options.device >= len(found):
            raise EngineError(_absent_device(options.device, len(found)))
        if self.rtx:
            plan.check_header(artifact.path, trt.__version__, found[options.device].capability)
        trust.require(artifact.path)
        session = TensorRTSession(trt, artifact.path.read_bytes(), spec, options, rtx=self.rtx)
        if options.strip_plan:
            check_model(artifact.folder / WEIGHTS)
            session.refit(artifact.folder / WEIGHTS)
        return session

    def _timing_cache(self, spec: BuildSpec, options: BuildOptions, version: str) -> str | None:
        """The recipe's file, else one in the build's own cache for this version and device.

        Raises:
            UsageError: the file's folder does not exist.
        """
        if options.timing_cache is not None:
            path = Path(options.timing_cache).resolve()
            if not path.parent.is_dir():
                raise UsageError(f"`timing_cache` of {self.target} is {path}, in a folder that is not there; make it.")
            return str(path)
        found = devices()
        if self.rtx or spec.cache is None or options.device >= len(found):
            return None
        return str(timing_cache_file(spec.cache.resolve(), version, found[options.device]))

    def _device(self, options: BuildOptions) -> int:
        """The GPU to build on, where the plan depends on one."""
        if self.rtx and "current" not in options.compute_capabilities:
            return 0
        found = devices()
        if options.device and options.device >= len(found):
            raise EngineError(_absent_device(options.device, len(found)))
        return options.device

    def _serialize(self, builder: PlanBuilder, request: Request, log_file: Path, version: str) -> BuildLog:
        refused = f"{request.model}: {self.target} {version}"
        try:
            answer = builder.build(request)
        except EngineError as error:
            raise EngineError(f"{refused}: {error}") from error
        log = BuildLog(answer.log)
        log.write(log_file)
        if answer.error is not None:
            problems = [f"\n  - {problem}" for problem in answer.problems]
            more = [f"\n  - and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
            raise EngineError(f"{refused}: {answer.error}{''.join(problems[:MAX_PROBLEMS] + more)}")
        return log


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


def timing_cache_file(folder: Path, version: str, device: Device) -> Path:
    """Where timings of a device and a version of TensorRT are kept: those of others are worth nothing."""
    name = re.sub(r"[^a-z0-9.]+", "-", f"{version} {device.name} {device.capability}".lower())
    return folder / f"tensorrt-{name}.timing"


def _absent_device(device: int, present: int) -> str:
    reason = no_gpu_reason() or f"the driver shows {present}"
    return f"GPU {device} was asked for with `device`, counted from 0; {reason}."


def _profile(inputs: tuple[TensorSpec, ...], ranges: Mapping[str, DimRange]) -> dict[str, list[list[int]]]:
    """The [min, opt, max] shapes of every input with a dynamic dimension."""
    return {
        tensor.name: [
            [dim if isinstance(dim, int) else getattr(ranges[dim], end) for dim in tensor.shape]
            for end in ("min", "opt", "max")
        ]
        for tensor in inputs
        if any(isinstance(dim, str) for dim in tensor.shape)
    }


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])
