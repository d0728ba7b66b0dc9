"""TensorRT's log and its parser's errors, turned into node, reason and remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enginery.engines.tensorrt.builder import recorder

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

    def __init__(self, rows: Iterable[tuple[str, str]] = ()) -> None:
        self.rows = list(rows)

    def logger(self, trt: Any) -> Any:
        """An ILogger of the given module that writes here."""
        return recorder(trt, self.rows)

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


def parser_problems(errors: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """The parser's errors, as `builder.py` hands them on."""
    return [problem(_node_of(error), error["description"]) for error in errors]


def _node_of(error: Mapping[str, Any]) -> str:
    if not error["operator"]:
        return "the model"
    node = f"node {error['name'] or '#' + str(error['node'])!r} ({error['operator']})"
    functions = " > ".join(error["functions"])
    return f"{node} in function {functions}" if functions else node


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
