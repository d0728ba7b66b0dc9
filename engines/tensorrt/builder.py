"""Builds one plan in a process of its own, which `process.py` starts with this file as its script.

Three reasons for the process. The builder orders some symbols by the addresses of its objects, so that in a process
with a history about one plan in ten differs in a few bytes; a thread with memory of its own, in a fresh process without
address randomization, one thread at a time, gives the same bytes. A crash of the native builder becomes an error
instead of taking the caller along. And what the native code prints on its own goes into the build log instead of the
terminal.

Arguments: the Python module of TensorRT; the number of an open file descriptor, to which the plan is written; a JSON
list of where Python looks for modules. Input (stdin): a JSON object, the fields of `process.Request`; while this
process imports TensorRT, its parent checks the model. The current folder is the model's. Output (stdout): a JSON
object, {"log": [[severity, message]…], "error": text or null, "refused": whether it was TensorRT that refused,
"parser": [its errors…], "size": bytes of the plan}.

Starting is part of every build. So nothing here imports more than it needs, neither of Python nor of ours, and the
process ends without taking TensorRT's objects apart.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RTX = "tensorrt_rtx"
LAYERS = "Layers:\n"
"""How the builder's listing of an engine's layers begins."""

SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of Linux's call `sched_setattr`, for which Python has no function, by processor."""

STACK = 64 << 20
"""Bytes of address space for the stack that TensorRT runs on; a first thread may have 8 MB or more."""


class MismatchError(Exception):
    """What was asked for does not go together with the model."""


class RefusalError(Exception):
    """TensorRT says no. `parser` holds its parser's errors, the log everything else."""

    def __init__(self, what: str, parser: list[dict[str, Any]] | None = None) -> None:
        super().__init__(what)
        self.parser = parser or []


def recorder(trt: Any, rows: list[tuple[str, str]]) -> Any:
    """An ILogger that appends (severity, message) to `rows`.

    Of the thousands of verbose messages it keeps the listings of layers.
    """
    names = {int(severity): name for name, severity in trt.ILogger.Severity.__members__.items()}
    verbose = int(trt.ILogger.Severity.VERBOSE)

    class Recorder(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = int(severity)
            if level < verbose or msg.startswith(LAYERS):
                rows.append((names[level], msg))

    return Recorder()


def build(trt: Any, builder: Any, request: dict[str, Any], rows: list[tuple[str, str]]) -> Any:
    """Parse and build; the plan is a buffer of TensorRT's own memory."""
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(request["model"]):
        raise RefusalError("the parser refuses the model", _errors(parser))
    _check_signature(network, request)
    config = builder.create_builder_config()
    _apply(trt, config, request["settings"])
    cache = request["timing_cache"]
    if cache is not None:
        _read_cache(cache, config)
    for shapes in request["shapes"]:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise RefusalError("the optimization profile is refused")
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise RefusalError("the builder refuses the model")
    if cache is not None:
        _write_cache(cache, config, rows)
    return serialized


def main(module: str, plan: int, path: list[str]) -> None:
    sys.path[:] = path
    if module == RTX:
        _one_thread_at_a_time()
    # Native code prints to file descriptor 1 as it likes; the answer goes out through a private copy of it.
    output = os.dup(1)
    os.dup2(2, 1)
    trt = import_module(module)
    rows: list[tuple[str, str]] = []
    builder = trt.Builder(recorder(trt, rows))
    given = sys.stdin.read()
    if not given:  # The parent refuses the model.
        return
    answer: dict[str, Any] = {"log": rows, "error": None, "refused": False, "parser": [], "size": 0}
    try:
        with memoryview(build(trt, builder, json.loads(given), rows)) as serialized, os.fdopen(plan, "wb") as file:
            answer["size"] = serialized.nbytes
            file.write(serialized)
    except MismatchError as error:
        answer["error"] = str(error)
    except RefusalError as error:
        answer |= {"error": str(error), "refused": True, "parser": error.parser}
    with os.fdopen(output, "w") as stream:
        json.dump(answer, stream)


def _one_thread_at_a_time() -> None:
    """Keep to one processor, where no thread that wakes up interrupts another.

    TensorRT-RTX compiles kernels in threads that number their symbols with one counter. Side by side, or interrupting
    each other, they number them otherwise in each build. Full TensorRT times its kernels, and differs all the same.
    """
    if sys.platform != "linux":
        return
    try:
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        # A sandbox may forbid it; what the plan computes does not depend on it.
        return
    _ask_for_long_slices()


def _ask_for_long_slices() -> None:
    """Let a thread run for 100 ms where others wait, the longest that Linux grants (from 6.12 on; ignored before)."""
    import ctypes
    import struct

    call = SCHED_SETATTR.get(os.uname().machine)
    if call is None:
        return
    # struct sched_attr: size, policy, flags, nice, priority, runtime (here the slice, in ns), deadline, period.
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_BATCH, 0, nice, 0, 100_000_000, 0, 0)
    ctypes.CDLL(None).syscall(call, 0, ctypes.create_string_buffer(attributes, len(attributes)), 0)


def _strongly_typed(trt: Any) -> int:
    # TensorRT 11 knows strongly typed networks only and may drop the flag.
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _apply(trt: Any, config: Any, settings: dict[str, Any]) -> None:
    for name, on in settings["flags"].items():
        flag = trt.BuilderFlag.__members__[name]
        (config.set_flag if on else config.clear_flag)(flag)
    for attribute, (enum, member) in settings["enums"].items():
        setattr(config, attribute, getattr(trt, enum).__members__[member])
    for attribute, number in settings["numbers"].items():
        setattr(config, attribute, number)
    for pool, size in settings["pools"].items():
        config.set_memory_pool_limit(trt.MemoryPoolType.__members__[pool], size)
    for index, name in enumerate(settings["capabilities"]):
        config.num_compute_capabilities = len(settings["capabilities"])
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)


def _errors(parser: Any) -> list[dict[str, Any]]:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [
        {
            "node": error.node(),
            "name": error.node_name(),
            "operator": error.node_operator(),
            "description": error.desc(),
            "functions": [str(function) for function in error.local_function_stack()],
        }
        for error in errors
    ]


def _check_signature(network: Any, request: dict[str, Any]) -> None:
    """The network's inputs and outputs must be the declared ones, by name and rank."""
    for kind, declared, found in (
        ("input", request["inputs"], [network.get_input(index) for index in range(network.num_inputs)]),
        ("output", request["outputs"], [network.get_output(index) for index in range(network.num_outputs)]),
    ):
        actual = {tensor.name: tensor for tensor in found}
        if set(actual) != set(declared):
            raise MismatchError(f"it has the {kind}s {sorted(actual)}; declared are {sorted(declared)}")
        for name, rank in declared.items():
            shape = list(actual[name].shape)
            if len(shape) != rank:
                raise MismatchError(
                    f"the {kind} {name!r} has the shape {shape} in TensorRT; declared: {rank} dimensions"
                )
            if kind == "input" and actual[name].is_shape_tensor:
                raise MismatchError(
                    f"the input {name!r} is used as a shape. An engine needs the range of its values at build time, "
                    "which a recipe cannot say; make it a constant, or compute it from another input's shape"
                )


def _read_cache(path: str, config: Any) -> None:
    held = b""
    if os.path.isfile(path):  # noqa: PTH113 (pathlib takes longer to import than this whole file)
        with open(path, "rb") as file:  # noqa: PTH123
            held = file.read()
    cache = config.create_timing_cache(held)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise MismatchError(f"the timing cache {path} belongs to another device or version; delete it or name another")


def _write_cache(path: str, config: Any, rows: list[tuple[str, str]]) -> None:
    # Two builds may share the cache: it appears by a rename, whole.
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:  # noqa: PTH123
            file.write(memoryview(config.get_timing_cache().serialize()))
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        # The plan is good all the same; the next build only takes as long as this one.
        rows.append(("WARNING", f"the timing cache {path} could not be written: {error.strerror}"))


def _in_a_thread(call: Callable[[], None]) -> bool:
    """Run `call` where its allocations come from memory of their own; whether it ended well.

    The heap of the first thread bears the traces of the environment, the search path and whatever Python did at start,
    and so would the addresses by which the builder orders symbols.
    """
    ended = _thread.allocate_lock()
    ended.acquire()
    well = False

    def run() -> None:
        nonlocal well
        try:
            call()
            well = True
        except Exception as error:  # noqa: BLE001 (the caller reads the traceback)
            sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
        finally:
            ended.release()

    _thread.stack_size(STACK)
    _thread.start_new_thread(run, ())
    ended.acquire()
    return well


if __name__ == "__main__":
    # Everything is written then. Taking apart what TensorRT holds would only take time.
    os._exit(0 if _in_a_thread(lambda: main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))) else 1)
