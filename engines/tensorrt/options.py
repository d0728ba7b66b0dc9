"""The options of the TensorRT engines: checked by name and value, and refused by name where a version lacks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

from enginery.engines.base import DimRange
from enginery.errors import EngineError, UsageError

Verbosity = Literal["none", "layer-names", "detailed"]
Hardware = Literal["none", "ampere+", "same-compute-capability"]

CAPABILITIES: Final = {
    "7.5": "SM75", "8.0": "SM80", "8.6": "SM86", "8.9": "SM89", "12.0": "SM120", "12.1": "SM121", "current": "CURRENT",
}  # fmt: skip
_FLAGS: Final = {
    "sparsity": "SPARSE_WEIGHTS",
    "weight_streaming": "WEIGHT_STREAMING",
    "refit": "REFIT",
    "strip_plan": "STRIP_PLAN",
    "version_compatible": "VERSION_COMPATIBLE",
}
_HARDWARE: Final = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
_VERBOSITY: Final = {"none": "NONE", "layer-names": "LAYER_NAMES_ONLY", "detailed": "DETAILED"}

# Measured on 1.7.1: a plan has the same bytes with and without these, so they would be silent no-ops.
NO_EFFECT_ON_RTX: Final = {
    "timing_cache": "TensorRT-RTX compiles kernels on the device and keeps no timing cache",
    "hardware_compatibility": "TensorRT-RTX plans name their devices; use `compute_capabilities`",
    "optimization_level": "its builder has one level; kernels are chosen on the device",
    "sparsity": "its builder ignores 2:4 sparse weights",
}
_RTX_ONLY: Final = {"compute_capabilities": "only TensorRT-RTX builds for devices that are not present"}


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build. In a recipe they stand under `engine: {tensorrt: {...}}`.

    `profiles` holds further optimization profiles, each a mapping from dimension to [min, opt, max]; dimensions that
    it leaves out keep the recipe's range. Without it the recipe's ranges are the only profile. `workspace` is the
    builder's scratch memory in bytes (None: TensorRT's own default, all of the device). `timing_cache` is a file that
    is read when it exists and written after the build (None: one in the build's cache, for this version and device).
    """

    profiles: tuple[Mapping[str, tuple[int, int, int]], ...] = ()
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: str | None = None
    sparsity: bool = False
    weight_streaming: bool = False
    refit: bool = False
    strip_plan: bool = False
    version_compatible: bool = False
    hardware_compatibility: Hardware = "none"
    compute_capabilities: tuple[str, ...] = ()
    tf32: bool = False
    verbosity: Verbosity = "detailed"
    cuda_graphs: bool = True
    device: int = 0

    @classmethod
    def parse(cls, options: Mapping[str, Any], target: str) -> Self:
        """Read options from a recipe or an artifact.

        Raises:
            UsageError: an option is unknown or has a value that it cannot have.
        """
        known = {item.name: item for item in dataclasses.fields(cls)}
        if unknown := sorted(set(options) - set(known)):
            raise UsageError(f"Unknown option {unknown[0]!r} of {target}. Available: {', '.join(sorted(known))}.")
        values = dict(options)
        if "profiles" in values:
            values["profiles"] = _profiles(values["profiles"], target)
        if "compute_capabilities" in values:
            values["compute_capabilities"] = _capabilities(values["compute_capabilities"], target)
        for name, value in values.items():
            if (expected := _expectation(name, value)) is not None:
                raise UsageError(f"`{name}` of {target} is {value!r}; expected {expected}.")
        return cls(**values)

    def given(self) -> set[str]:
        """Options that differ from their defaults."""
        return {item.name for item in dataclasses.fields(self) if getattr(self, item.name) != item.default}

    def to_json(self) -> dict[str, Any]:
        """The options as an artifact records them; `parse` reads them back."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["profiles"] = [{dim: list(bounds) for dim, bounds in profile.items()} for profile in self.profiles]
        values["compute_capabilities"] = list(self.compute_capabilities)
        # Where a cache lies is this machine's business, and no part of what was built.
        values["timing_cache"] = None
        return values

    def ranges(self, dims: Mapping[str, DimRange]) -> tuple[Mapping[str, DimRange], ...]:
        """The dimensions' ranges of every profile.

        Raises:
            UsageError: a profile names an unknown dimension or leaves the recipe's range.
        """
        result: list[Mapping[str, DimRange]] = []
        for number, profile in enumerate(self.profiles):
            for dim, (low, _, high) in profile.items():
                if dim not in dims:
                    raise UsageError(f"Profile {number} names the dimension {dim!r}; declared are {sorted(dims)}.")
                if low not in dims[dim] or high not in dims[dim]:
                    raise UsageError(
                        f"Profile {number} covers {dim} from {low} to {high}; the recipe checks the model from "
                        f"{dims[dim].min} to {dims[dim].max}. Widen `dims` or narrow the profile."
                    )
            result.append({**dims, **{dim: DimRange(*bounds) for dim, bounds in profile.items()}})
        return tuple(result) or (dims,)

    def check_coverage(self, dims: Mapping[str, DimRange], shapes: Sequence[Mapping[str, int]], target: str) -> None:
        """Check that each of `shapes`, sizes of the dimensions, lies in a profile.

        Raises:
            UsageError: one does not; the message prints it and the profiles.
        """
        profiles = self.ranges(dims)
        for sizes in shapes:
            if not any(all(sizes[dim] in ranges[dim] for dim in sizes) for ranges in profiles):
                given = ", ".join(f"{dim}={size}" for dim, size in sorted(sizes.items()))
                raise UsageError(
                    f"No profile of {target} covers {given}, which `dims` of the recipe promises and the gates run; "
                    f"they cover {'; '.join(map(format_profile, profiles))}. Widen one, or narrow `dims`."
                )


def format_profile(ranges: Mapping[str, DimRange]) -> str:
    return ", ".join(f"{dim} {bounds.min}-{bounds.max} (best {bounds.opt})" for dim, bounds in sorted(ranges.items()))


def refuse_unsupported(options: BuildOptions, *, rtx: bool, target: str, version: str) -> None:
    """Raise EngineError for an option that this version does not have, or takes and ignores."""
    absent = NO_EFFECT_ON_RTX if rtx else _RTX_ONLY
    if names := sorted(options.given() & absent.keys()):
        raise EngineError(f"{target} {version} does not support `{names[0]}`: {absent[names[0]]}. Remove it.")


@dataclass(frozen=True)
class Settings:
    """What to set on a builder configuration, by TensorRT's own names."""

    flags: dict[str, bool]
    """Builder flags to set or to clear."""
    enums: dict[str, tuple[str, str]]
    """Attributes, each with an enumeration and its member."""
    numbers: dict[str, int]
    """Attributes that are numbers."""
    pools: dict[str, int]
    """Memory pools, in bytes."""
    capabilities: list[str]


def settings_of(trt: Any, options: BuildOptions, target: str) -> Settings:
    """The options in the words of the module `trt`.

    Raises:
        EngineError: this version of TensorRT has no such option.
    """
    # TensorRT rounds fp32 to TF32 unless told not to, which costs three digits; that is never decided silently here.
    flags = {_member(trt, "BuilderFlag", "TF32", "tf32", target): options.tf32}
    for name, flag in _FLAGS.items():
        if getattr(options, name):
            flags[_member(trt, "BuilderFlag", flag, name, target)] = True
    level = _member(trt, "ProfilingVerbosity", _VERBOSITY[options.verbosity], "verbosity", target)
    enums = {"profiling_verbosity": ("ProfilingVerbosity", level)}
    if options.hardware_compatibility != "none":
        enum, member = "HardwareCompatibilityLevel", _HARDWARE[options.hardware_compatibility]
        enums["hardware_compatibility_level"] = (enum, _member(trt, enum, member, "hardware_compatibility", target))
    capabilities = [
        _member(trt, "ComputeCapability", CAPABILITIES[name], "compute_capabilities", target)
        for name in options.compute_capabilities
    ]
    numbers = {} if options.optimization_level is None else {"builder_optimization_level": options.optimization_level}
    pools = {} if options.workspace is None else {"WORKSPACE": options.workspace}
    return Settings(flags, enums, numbers, pools, capabilities)


def _member(trt: Any, enum: str, name: str, option: str, target: str) -> str:
    """The name, if the module's enumeration has it."""
    members = getattr(getattr(trt, enum, None), "__members__", {})
    if name not in members:
        raise EngineError(
            f"{target} {trt.__version__} does not support `{option}`: it has no {enum}.{name} "
            f"(it has {', '.join(members) or 'none'}). Remove the option, or install a version that has it."
        )
    return name


def _profiles(value: Any, target: str) -> tuple[Mapping[str, tuple[int, int, int]], ...]:
    expected = f"`profiles` of {target} is {value!r}; expected a list of {{dimension: [min, opt, max]}}."
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UsageError(expected)
    result: list[Mapping[str, tuple[int, int, int]]] = []
    for profile in value:
        if not isinstance(profile, Mapping) or not profile:
            raise UsageError(expected)
        for bounds in profile.values():
            if not isinstance(bounds, Sequence) or len(bounds) != 3 or not all(_is_size(bound) for bound in bounds):
                raise UsageError(expected)
            if not bounds[0] <= bounds[1] <= bounds[2]:
                raise UsageError(f"{expected} min <= opt <= max must hold.")
        result.append({str(dim): (bounds[0], bounds[1], bounds[2]) for dim, bounds in profile.items()})
    return tuple(result)


def _capabilities(value: Any, target: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str | float) else value
    if not isinstance(names, Sequence) or any(str(name) not in CAPABILITIES for name in names):
        raise UsageError(
            f"`compute_capabilities` of {target} is {value!r}; expected some of {', '.join(CAPABILITIES)}."
        )
    return tuple(str(name) for name in names)


def _expectation(name: str, value: Any) -> str | None:
    """What an option's value should have been, or None when it is right."""
    if name == "optimization_level":
        ok, expected = value is None or (_is_size(value, 0) and value <= 5), "an integer from 0 to 5"
    elif name == "workspace":
        ok, expected = value is None or _is_size(value), "a number of bytes"
    elif name == "device":
        ok, expected = _is_size(value, 0), "the index of a GPU"
    elif name == "timing_cache":
        ok, expected = value is None or isinstance(value, str), "the path of a file"
    elif name == "hardware_compatibility":
        ok, expected = value in get_args(Hardware), f"one of {', '.join(get_args(Hardware))}"
    elif name == "verbosity":
        ok, expected = value in get_args(Verbosity), f"one of {', '.join(get_args(Verbosity))}"
    elif name in ("profiles", "compute_capabilities"):
        return None
    else:
        ok, expected = isinstance(value, bool), "true or false"
    return None if ok else expected


def _is_size(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
