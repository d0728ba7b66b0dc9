"""Builds one plan in a process of its own: `python -m enginery.engines.tensorrt.builder`.

Three reasons for the process. The builder orders some symbols by the addresses of its objects, so that in a process
with a history about one plan in ten differs in a few bytes; a fresh process without address randomization gives the
same bytes each time. A crash of the native builder becomes an error instead of taking the caller along. And what the
native code prints on its own goes into the build log instead of the terminal.

Argument: the number of an open file descriptor, to which the plan is written. Input (stdin): a JSON object, the fields
of `Request`; the current folder is the model's. Output (stdout): a JSON object, {"log": [[severity, message]…],
"problems": [[node, reason, remedy]…], "error": text or null, "size": bytes}. Nothing here imports numpy: starting is
part of every build.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from enginery.engines.tensorrt.log import BuildLog, Problem, parser_problems
from enginery.engines.tensorrt.options import BuildOptions, apply_options
from enginery.errors import EngineError, EngineryError


@dataclass(frozen=True)
class Request:
    """What to build. `shapes` gives one mapping a profile, from an input's name to its [min, opt, max] shapes."""

    target: str
    module: str
    model: str
    inputs: dict[str, int]
    """Names and ranks, to compare with the network's."""
    outputs: dict[str, int]
    shapes: list[dict[str, list[list[int]]]] = field(default_factory=list[dict[str, list[list[int]]]])
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass
class Outcome:
    """The plan is a buffer of TensorRT's own memory."""

    plan: Any = b""
    error: str | None = None
    problems: Sequence[Problem] = ()


def build(request: Request, log: BuildLog) -> Outcome:
    """Parse and build. Everything that TensorRT says goes to `log`."""
    trt = import_module(request.module)
    try:
        options = BuildOptions.parse(request.options, request.target)
        _use_device(request, options)
    except EngineryError as error:
        return Outcome(error=str(error))
    builder = trt.Builder(log.logger(trt))
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(request.model):
        return Outcome(error="the parser refuses the model", problems=parser_problems(parser) or log.problems())
    try:
        _check_signature(network, request)
        config = builder.create_builder_config()
        apply_options(trt, config, options, request.target)
        cache = _timing_cache(config, options)
    except EngineError as error:
        return Outcome(error=str(error))
    for shapes in request.shapes:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            return Outcome(error="the optimization profile is refused", problems=log.problems())
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        return Outcome(error="the builder refuses the model", problems=log.problems())
    if cache is not None:
        _write_cache(cache, config)
    return Outcome(serialized)


def main() -> int:
    request = Request.read(sys.stdin.read())
    # Native code prints to file descriptor 1 as it likes; the answer goes out through a private copy of it.
    output = os.dup(1)
    os.dup2(2, 1)
    log = BuildLog()
    outcome = build(request, log)
    with memoryview(outcome.plan) as plan, open(int(sys.argv[1]), "wb") as file:  # noqa: PTH123 (a descriptor)
        size = plan.nbytes
        file.write(plan)
    answer = {
        "log": log.rows,
        "problems": [[problem.node, problem.reason, problem.remedy] for problem in outcome.problems],
        "error": outcome.error,
        "size": size,
    }
    with os.fdopen(output, "w") as stream:
        json.dump(answer, stream)
    return 0


def _use_device(request: Request, options: BuildOptions) -> None:
    """Build on the GPU that was asked for, where the plan depends on one; CUDA takes the first otherwise."""
    if options.device and (request.module == "tensorrt" or "current" in options.compute_capabilities):
        from enginery.engines.cuda.runtime import call, runtime

        call(runtime().cudaSetDevice, options.device)


def _strongly_typed(trt: Any) -> int:
    # TensorRT 11 knows strongly typed networks only and may drop the flag.
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _check_signature(network: Any, request: Request) -> None:
    """The network's inputs and outputs must be the declared ones, by name and rank."""
    for kind, declared, found in (
        ("input", request.inputs, [network.get_input(index) for index in range(network.num_inputs)]),
        ("output", request.outputs, [network.get_output(index) for index in range(network.num_outputs)]),
    ):
        actual = {tensor.name: tensor for tensor in found}
        if set(actual) != set(declared):
            raise EngineError(f"it has the {kind}s {sorted(actual)}; declared are {sorted(declared)}")
        for name, rank in declared.items():
            shape = list(actual[name].shape)
            if len(shape) != rank:
                raise EngineError(f"the {kind} {name!r} has shape {shape} in TensorRT; declared with {rank} dimensions")
            if kind == "input" and actual[name].is_shape_tensor:
                raise EngineError(
                    f"the input {name!r} is used as a shape. An engine needs the range of its values at build time, "
                    "which a recipe cannot say; make it a constant, or compute it from another input's shape"
                )


def _timing_cache(config: Any, options: BuildOptions) -> Path | None:
    if options.timing_cache is None:
        return None
    path = Path(options.timing_cache)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(f"the timing cache {path} belongs to another device or version; delete it or name another")
    return path


def _write_cache(path: Path, config: Any) -> None:
    # Two builds may share the cache: it appears by a rename, whole.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    temporary.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
