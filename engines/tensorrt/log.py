"""TensorRT's log and its parser's errors, turned into node, reason and remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_FIX: Final = "run `enginery lint MODEL.onnx --target tensorrt --fix OUT.onnx`"

REMEDIES: Final = (
    (r"[Nn]on-zero zero ?point|shiftIsAllZeros", f"quantize symmetrically (zero point 0): {_FIX}"),
    (r"input has type Int32 but must", f"keep biases in float: {_FIX}"),
    (r"Plugin not found", f"TensorRT has no such operator: {_FIX}, or build for ONNX Runtime"),
    (r"no tactics to implement.*workspace|workspace limit", "raise `workspace`, or leave it out"),
    (r"for Turing \(SM75\)", "leave 7.5 out of `compute_capabilities`"),
    (r"libnvinfer_lean", "`version_compatible` needs the lean runtime library, which this package does not carry"),
    (
        r"CUDA driver version is insufficient|CUDA_SUCCESS",
        "this needs an NVIDIA GPU and its driver: build there, or drop the option that needs one",
    ),
    (r"MIN<=OPT<=MAX|[Oo]ptimization profile", "check `dims` and `profiles` of the recipe against the inputs' shapes"),
)
"""Pattern of a message, and what to do. Every pattern was seen in a real message (the tests provoke them)."""

LAYERS: Final = "Layers:\n"
"""How the builder's listing of an engine's layers begins."""

_DURATIONS: Final = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)? ?(ms|s|seconds)\b")
_MACHINE: Final = ("Input filename:", "[MemUsage")
_SOURCE: Final = re.compile(r" In \w+ at \S+:\d+|^\w+::\w+: |\(?Error Code \d+: ")


@dataclass(frozen=True)
class Problem:
    """Something that TensorRT refuses: the node (as well as it is known), the reason, and what to do about it."""

    node: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}; {self.remedy}"


class BuildLog:
    """What TensorRT says during one build, by severity. `logger(trt)` gives the object that TensorRT calls.

    Of the thousands of verbose messages the listings of layers are kept.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def logger(self, trt: Any) -> Any:
        """An ILogger of the given module that writes here."""
        rows = self.rows
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

    def messages(self, *levels: str) -> list[str]:
        return [message for level, message in self.rows if level in levels]

    def problems(self) -> list[Problem]:
        """The errors so far, without those that only repeat that there is no GPU."""
        errors = self.messages("ERROR", "INTERNAL_ERROR")
        own = [message for message in errors if "catchCudaError" not in message] or errors
        return [problem(_node_in(message), message) for message in dict.fromkeys(own)]

    def write(self, path: Path) -> None:
        """Write everything above VERBOSE; without durations and paths, since equal builds have equal files."""
        lines = [
            f"{level}: {_DURATIONS.sub('…', message)}"
            for level, message in self.rows
            if level != "VERBOSE" and not message.startswith(_MACHINE)
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def parser_problems(parser: Any) -> list[Problem]:
    """The parser's errors. A parser that fails without one gives an empty list."""
    result: list[Problem] = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = error.node_name(), error.node_operator()
        node = f"node {name or '#' + str(error.node())!r} ({operator})" if operator else "the model"
        functions = [str(function) for function in error.local_function_stack()]
        if functions:
            node += f" in function {' > '.join(functions)}"
        result.append(problem(node, error.desc()))
    return result


def problem(node: str, message: str) -> Problem:
    """Shorten a message of TensorRT and add the remedy that is known for it."""
    lines = message.splitlines()
    # Without a driver every error ends with the remark that there is none; it is the reason only where it stands alone.
    message = "; ".join([line for line in lines if "catchCudaError" not in line] or lines)
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, message)), "see build.log")
    return Problem(node, _SOURCE.sub("", message).strip().rstrip("."), remedy)


def _node_in(message: str) -> str:
    found = re.search(r"operation '([^']+)'|ForeignNode\[([^\]]+)\]|[Ll]ayer[ :]+'?([\w./-]+)'?", message)
    return f"node {next(group for group in found.groups() if group)!r}" if found else "the network"
