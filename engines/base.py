"""The protocol that every engine implements, and the values that cross it.

An engine turns an ONNX file into an artifact (a folder of files) and an artifact into a session. The base classes
check names, dtypes, shapes and life-cycle once, so that a backend writes four small methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from enginery.errors import EngineError, InputError

if TYPE_CHECKING:
    import numpy.typing as npt

Arrays: TypeAlias = "dict[str, npt.NDArray[Any]]"
Feeds: TypeAlias = "Mapping[str, npt.NDArray[Any]]"
Sizes: TypeAlias = "Mapping[str, int]"
"""One size for each dynamic dimension."""


@dataclass(frozen=True)
class DimRange:
    """The declared range of one dynamic dimension: 1 <= min <= opt <= max."""

    min: int
    opt: int
    max: int

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: numpy dtype name, and a shape whose dynamic dimensions are names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class BuildSpec:
    """What an engine needs to know besides the ONNX file."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, DimRange]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    precision: str = "fp32"
    """What the engine itself shall compute in; another value than fp32 only where `Engine.native` names it."""

    quantized: bool = False
    """Whether the graph holds integers by the recipe's precision, so that its float rest may be computed in less."""

    shapes: tuple[Sizes, ...] = ()
    """Where the engine will run the most, all of them compared with the original: opt, then the recipe's `shapes`."""

    cache: Path | None = None
    """A folder where an engine may keep what makes later builds faster; nothing in it is part of a result."""


@dataclass(frozen=True)
class Artifact:
    """A built engine on disk.

    `entry` is the file that a session opens, relative to `folder`. `options` is what loading needs (session options,
    profiles); it is part of the bundle. `facts` is what the build found out (kernels, fallbacks, versions) for the
    report and the gates.
    """

    folder: Path
    entry: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def path(self) -> Path:
        return self.folder / self.entry


class Session(ABC):
    """A loaded engine. Thread-safe; `run` checks its feeds before the runtime sees them."""

    device_milliseconds: float | None = None
    """Time of the last run between two events on the device, without copies; None where the processor does the work."""

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], dims: Mapping[str, DimRange]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.dims = dims
        self._closed = False
        self._accepted: tuple[Any, ...] | None = None

    def run(self, feeds: Feeds) -> Arrays:
        """Run once and return every declared output by name.

        Raises:
            InputError: a name, dtype, rank or dimension is not as declared.
            EngineError: the session is closed, or the runtime failed.
        """
        if self._closed:
            raise EngineError("This session is closed. Load the engine again.")
        # Equal names, dtypes and shapes need no second check: it would take a tenth of a small model's run.
        layout = tuple(
            (name, getattr(each, "dtype", None), getattr(each, "shape", None)) for name, each in feeds.items()
        )
        if layout != self._accepted:
            check_feeds(feeds, self.inputs, self.dims)
            self._accepted = layout
        return self._run(feeds)

    @abstractmethod
    def _run(self, feeds: Feeds) -> Arrays:
        """Run the runtime on checked feeds."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is really in use: runtime and version, provider or device, threads."""

    def kernels(self) -> dict[str, Any]:
        """`kernels.kernel_facts` of the loaded engine, where it knows more than its build did; empty elsewhere."""
        return {}

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Engine(ABC):
    """Builds and loads artifacts for one target."""

    target: ClassVar[str]
    """The name users write, such as `onnxruntime-cpu`."""

    policy: ClassVar[str]
    """The quantization policy that suits the target: a name known to `enginery.passes.quantize`."""

    native: ClassVar[frozenset[str]] = frozenset()
    """Precisions that the engine computes a float32 graph in by itself, so that no pass has to convert the graph."""

    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Engine options that may be faster, depending on model and machine: worth a measurement, behind every gate."""

    variants_quantized: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Further ones that exist for quantized graphs only."""

    specializes: ClassVar[bool] = False
    """Whether builds read `BuildSpec.shapes`."""

    at_run: ClassVar[frozenset[str]] = frozenset()
    """Options that may be given anew when a built engine is opened: how it runs, not what it computes."""

    def builds_for(self) -> str:
        """The devices at hand that a build depends on, in words; empty where it depends on none but the processor."""
        return ""

    @abstractmethod
    def cannot_build(self) -> str | None:
        """Why this machine cannot build for the target and what to install, or None when it can."""

    @abstractmethod
    def cannot_run(self) -> str | None:
        """Why this machine cannot run the target's engines (its run gates are then deferred), or None when it can."""

    def check_options(  # noqa: B027 (an engine may have nothing to refuse so early)
        self, options: Mapping[str, Any], dims: Mapping[str, DimRange], shapes: Sequence[Sizes]
    ) -> None:
        """Refuse what a recipe says of the engine, before anything is done for its sake.

        `shapes` holds the sizes of the dimensions at which the gates will run the engine. An engine may leave all of it
        to `build`.

        Raises:
            UsageError: an option is unknown or has a value that it cannot have.
            EngineError: this version has no such option.
        """

    @abstractmethod
    def build(self, model: Path, folder: Path, spec: BuildSpec) -> Artifact:
        """Build `model` (an ONNX file) into `folder`, which exists and is empty.

        Raises:
            EngineError: the runtime refused the model; the message names the node, the reason and the remedy.
        """

    @abstractmethod
    def load(self, artifact: Artifact, spec: BuildSpec) -> Session:
        """Open a built artifact.

        Raises:
            EngineError: the artifact cannot run here, or would run on another provider than the target's.
        """


def check_feeds(feeds: Feeds, inputs: tuple[TensorSpec, ...], dims: Mapping[str, DimRange]) -> None:
    """Check the feeds of a run against the declared inputs.

    Raises:
        InputError: a name is missing or unknown, a value is no array, a dtype or rank differs, a fixed dimension
            differs, a named dimension has two sizes, or a size lies outside its declared range.
    """
    import numpy as np

    names = {spec.name for spec in inputs}
    if names != set(feeds):
        raise InputError(f"Inputs given: {sorted(feeds)}; expected: {sorted(names)}.")
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        array: Any = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"Input {spec.name!r} is a {type(array).__name__}; expected a numpy array, {spec}.")
        if array.dtype != np.dtype(spec.dtype):
            raise InputError(f"Input {spec.name!r} has dtype {array.dtype}; expected {spec.dtype}. Convert it first.")
        if array.ndim != len(spec.shape):
            raise InputError(f"Input {spec.name!r} has shape {list(array.shape)}; expected {spec}.")
        for size, dim in zip(array.shape, spec.shape, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    raise InputError(f"Input {spec.name!r} has shape {list(array.shape)}; expected {spec}.")
                continue
            if dim in dims and size not in dims[dim]:
                bound = dims[dim]
                raise InputError(
                    f"Dimension {dim!r} of input {spec.name!r} is {size}; the engine was built and checked for "
                    f"{bound.min} to {bound.max}. Change `dims` in the recipe and build again, or split the input."
                )
            seen, where = sizes.setdefault(dim, (size, spec.name))
            if seen != size:
                raise InputError(
                    f"Dimension {dim!r} is {seen} in input {where!r} and {size} in input {spec.name!r}; "
                    "one name has one size."
                )
