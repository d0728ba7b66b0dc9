"""Options of OpenVINO sessions, as recipes and bundles write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

from enginery.engines.base import DimRange, Sizes
from enginery.errors import UsageError

InferencePrecision = Literal["f32", "bf16"]

_EXPECTED: Final = "expected true, false, or a list of sizes such as [{batch: 1, seq: 32}]"


@dataclass(frozen=True)
class OpenVinoOptions:
    """Options of a session. In a recipe they stand under `engine: {openvino-cpu: {...}}`.

    `threads=0` means one per core of the machine that runs. `inference_precision` is what float operations are
    computed in; integer kernels follow the Q/DQ pairs of the graph. For each of `static_shapes` a model of exactly
    that shape is compiled beside the one for all shapes, when a session is opened: kernels that know their sizes are
    faster, and every one takes memory for its own copy of the weights. `True` means opt and the recipe's `shapes`;
    `at` replaces it by them.
    """

    threads: int = 0
    inference_precision: InferencePrecision = "f32"
    static_shapes: bool | tuple[Sizes, ...] = False

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Read options from a recipe or an artifact.

        Raises:
            UsageError: an option is unknown or has a value that it cannot have.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise UsageError(f"Unknown option {unknown[0]!r} of openvino-cpu. Available: {', '.join(known)}.")
        given: dict[str, Any] = {**options, "static_shapes": _static_shapes(options.get("static_shapes", False))}
        parsed = cls(**given)
        if isinstance(parsed.threads, bool) or not isinstance(parsed.threads, int) or parsed.threads < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"`threads` of openvino-cpu is {parsed.threads!r}; expected 0 (all cores) or more.")
        if parsed.inference_precision not in get_args(InferencePrecision):
            raise UsageError(
                f"`inference_precision` of openvino-cpu is {parsed.inference_precision!r}; "
                f"expected one of {', '.join(get_args(InferencePrecision))}."
            )
        return parsed

    def check(self, dims: Mapping[str, DimRange], shapes: Sequence[Sizes]) -> None:
        """Check that every static shape is one of `shapes`, at which the gates run the engine.

        Raises:
            UsageError: one is not, so that a model would be shipped that nothing compared with the original.
        """
        for sizes in self.fixed:
            if sizes not in shapes:
                given = ", ".join(f"{dim} {size}" for dim, size in sizes.items()) or "no size"
                raise UsageError(
                    f"`static_shapes` of openvino-cpu has {given}, where the gates run nothing; expected sizes for "
                    f"{', '.join(dims) or 'no dimension'} that `shapes` of the recipe names. Add it there."
                )

    def at(self, shapes: Sequence[Sizes]) -> Self:
        """The options with their static shapes written out, where they are those that are run the most."""
        chosen = self.fixed if self.static_shapes is not True else tuple(shapes)
        return dataclasses.replace(self, static_shapes=chosen)

    @property
    def fixed(self) -> tuple[Sizes, ...]:
        """The static shapes that are written out."""
        return () if isinstance(self.static_shapes, bool) else self.static_shapes

    def record(self) -> dict[str, Any]:
        """The options as `parse` reads them."""
        return {**vars(self), "static_shapes": [dict(sizes) for sizes in self.fixed]}

    def properties(self) -> dict[str, Any]:
        """The options in OpenVINO's own words: one stream, tuned for latency."""
        threads = {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": self.inference_precision,
            **threads,
        }


def _static_shapes(value: Any) -> bool | tuple[Sizes, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple) or not all(_are_sizes(each) for each in value):
        raise UsageError(f"`static_shapes` of openvino-cpu is {value!r}; {_EXPECTED}.")
    return tuple(dict(each) for each in value)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(dim, str) and isinstance(size, int) and not isinstance(size, bool) for dim, size in value.items()
    )
