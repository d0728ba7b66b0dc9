"""The options of the ONNX Runtime engines: all explicit, checked by name, recorded in the artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, get_args

from enginery.errors import UsageError

Level = Literal["disabled", "basic", "extended", "layout", "all"]

GPU_ONLY: Final = ("provider", "cpu_nodes")
"""Options that the CPU's provider has no use for: an error there, not a silence."""

SLOW_ON_CPU: Final = ("SkipLayerNormFusion",)
"""Optimizers that make the CPU engine slower: the kernel of SkipLayerNormalization takes about six times as long as
Add and LayerNormalization (measured on 1.31.1: without it MiniLM is 1.09 to 1.15 times faster)."""

UNASKED: Final = ("WeightBiasQuantization",)
"""Optimizers that never run: this one rounds the weights of a convolution or Gemm in float between integers, with one
scale for all channels, though the graph says that the layer stays in float."""


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session. In a recipe they stand under `engine: {onnxruntime-cpu: {...}}`.

    `threads` is the number of threads inside one operator; 0 means one per physical core of the machine that runs.
    `config` holds further session configuration entries of ONNX Runtime, by their own names.
    """

    threads: int = 0
    optimization: Level = "all"
    disabled_optimizers: tuple[str, ...] = ()
    spinning: bool = True
    memory_arena: bool = True
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    provider: Mapping[str, str] = field(default_factory=dict[str, str])
    """Options of the execution provider, by ONNX Runtime's own names, such as `device_id`."""

    cpu_nodes: tuple[str, ...] = ()
    """GPU providers: operators that may run on the CPU, such as `Shape`. Any other node there is an error."""

    @classmethod
    def parse(cls, options: Mapping[str, Any], defaults: Mapping[str, Any], target: str) -> Self:
        """Read options from a recipe or an artifact.

        Raises:
            UsageError: an option is unknown or has a value that it cannot have.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(set(options) - known):
            raise UsageError(f"Unknown option {unknown[0]!r} of {target}. Available: {', '.join(sorted(known))}.")
        values = {**defaults, **options}
        if target == "onnxruntime-cpu" and (idle := [name for name in GPU_ONLY if values.get(name)]):
            raise UsageError(f"`{idle[0]}` is an option of onnxruntime-cuda and onnxruntime-tensorrt, not of {target}.")
        for name in ("disabled_optimizers", "cpu_nodes"):
            if name in values:
                values[name] = tuple(_strings(values[name], name, target))
        for name in ("config", "provider"):
            if name in values:
                values[name] = _mapping(values[name], name, target)
        threads = values.get("threads", 0)
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
            raise UsageError(f"`threads` of {target} is {threads!r}; expected 0 (all cores) or more.")
        parsed = cls(**values)
        parsed.check(target)
        return parsed

    def check(self, target: str) -> None:
        if self.optimization not in get_args(Level):
            raise UsageError(
                f"`optimization` of {target} is {self.optimization!r}; expected one of {', '.join(get_args(Level))}."
            )
        for name in ("spinning", "memory_arena"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"`{name}` of {target} is {getattr(self, name)!r}; expected true or false.")

    def to_json(self) -> dict[str, Any]:
        """The options as an artifact records them; `parse` reads them back."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {
            k: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v for k, v in values.items()
        }

    def session_options(self, ort: Any) -> Any:
        """ONNX Runtime's own object. Its log is silent: errors arrive as exceptions, warnings are checked by us."""
        levels = {
            "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
            "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "layout": ort.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
            "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        }
        result = ort.SessionOptions()
        result.graph_optimization_level = levels[self.optimization]
        result.intra_op_num_threads = self.threads
        result.inter_op_num_threads = 1
        result.enable_cpu_mem_arena = self.memory_arena
        result.log_severity_level = 4
        result.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        for key, value in self.config.items():
            result.add_session_config_entry(key, value)
        return result


def _strings(value: Any, name: str, target: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"`{name}` of {target} is {value!r}; expected a list of names.")
    return list(value)


def _mapping(value: Any, name: str, target: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise UsageError(f"`{name}` of {target} is {value!r}; expected names and values.")
    return {str(key): _text(item) for key, item in value.items()}


def _text(value: Any) -> str:
    # ONNX Runtime spells switches 0 and 1 where YAML says false and true.
    return str(int(value)) if isinstance(value, bool) else str(value)
