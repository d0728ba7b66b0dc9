"""The shapes at which original and engine are compared, and real inputs cut or repeated to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from enginery.engines.base import Arrays, DimRange, Feeds, Sizes, TensorSpec
from enginery.errors import StageError


@dataclass(frozen=True)
class Case:
    """One assignment of sizes to all dynamic dimensions."""

    name: str
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        sizes = ", ".join(f"{dim}={size}" for dim, size in sorted(self.sizes.items()))
        return f"{self.name} ({sizes})" if sizes else self.name


def cases(dims: Mapping[str, DimRange], shapes: Sequence[Sizes] = ()) -> tuple[Case, ...]:
    """Every dimension at min, opt and max and at one odd size, and the recipe's own `shapes`.

    1. All dimensions together at opt, at min, at max and at an odd size.
    2. With several dimensions: each one alone at its min and max, the others at opt, since together they can hide
       each other (a model that mixes up two equal sizes).
    3. Every one of `shapes`, absent dimensions at opt.
    """
    wanted = [
        Case("opt", {name: dim.opt for name, dim in dims.items()}),
        Case("min", {name: dim.min for name, dim in dims.items()}),
        Case("max", {name: dim.max for name, dim in dims.items()}),
        Case("odd", {name: odd_size(dim) for name, dim in dims.items()}),
    ]
    if len(dims) > 1:
        opt = wanted[0].sizes
        for name, dim in dims.items():
            wanted.append(Case(f"{name}-min", {**opt, name: dim.min}))
            wanted.append(Case(f"{name}-max", {**opt, name: dim.max}))
    wanted += [Case(f"shape-{number}", {**wanted[0].sizes, **sizes}) for number, sizes in enumerate(shapes, 1)]
    return _distinct(wanted)


def _distinct(wanted: Iterable[Case]) -> tuple[Case, ...]:
    seen: dict[tuple[tuple[str, int], ...], Case] = {}
    for case in wanted:
        seen.setdefault(tuple(sorted(case.sizes.items())), case)
    return tuple(seen.values())


def odd_size(dim: DimRange) -> int:
    """An odd size strictly between min and max that is not opt, near their geometric mean; opt where there is none."""
    middle = round((dim.min * dim.max) ** 0.5)
    inner = (
        [size for size in range(dim.min + 1, dim.max) if size != dim.opt] if dim.max - dim.min < 1 << 16 else [middle]
    )
    ranked = sorted(inner, key=lambda size: (size % 2 == 0, abs(size - middle)))
    return ranked[0] if ranked else dim.opt


def fit(feeds: Feeds, specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> Arrays:
    """Cut or repeat real inputs along their dynamic dimensions to the given sizes.

    A dimension that must grow is filled by going around again, so every value is one that the data really holds.
    """
    result: Arrays = {}
    for spec in specs:
        array = feeds[spec.name]
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                if array.shape[axis] == 0:
                    raise StageError(f"reference: input {spec.name!r} of the data is empty along {dim!r}.")
                array = np.take(array, np.arange(sizes[dim]) % array.shape[axis], axis=axis)
        result[spec.name] = np.asarray(array, order="C")
    return result


def sizes_of(feeds: Feeds, specs: Sequence[TensorSpec]) -> dict[str, int]:
    """The sizes of the named dimensions in these feeds."""
    return {
        dim: feeds[spec.name].shape[axis]
        for spec in specs
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }


def random_inputs(specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int) -> Arrays:
    """Seeded noise, for models whose recipe names no data. Integers are 0 or 1: valid in any vocabulary or mask."""
    generator = np.random.default_rng(seed)
    result: Arrays = {}
    for spec in specs:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        if spec.dtype.startswith("float"):
            result[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
        else:
            result[spec.name] = generator.integers(0, 2, shape).astype(spec.dtype)
    return result


def infer_output_specs(names: Sequence[str], seen: Sequence[tuple[Mapping[str, int], Feeds]]) -> tuple[TensorSpec, ...]:
    """Name the outputs' dimensions from what was seen at several sizes.

    A size that always equals one named dimension gets its name; one that never changes is fixed; any other is dynamic
    with a name of its own (`logits_1`), which nothing else shares.
    """
    return tuple(_infer(name, seen) for name in names)


def _infer(name: str, seen: Sequence[tuple[Mapping[str, int], Feeds]]) -> TensorSpec:
    arrays = [(sizes, arrays[name]) for sizes, arrays in seen]
    ranks = {array.ndim for _, array in arrays}
    if len(ranks) != 1:
        raise StageError(f"reference: output {name!r} has {sorted(ranks)} dimensions, depending on the inputs' sizes.")
    first = arrays[0][1]
    shape: list[int | str] = []
    for axis in range(first.ndim):
        observed = [(sizes, array.shape[axis]) for sizes, array in arrays]
        same = [dim for dim in arrays[0][0] if all(sizes[dim] == size for sizes, size in observed)]
        if len({size for _, size in observed}) == 1 and not (same and axis == 0):
            shape.append(first.shape[axis])
        else:
            shape.append(same[0] if same else f"{name}_{axis}")
    return TensorSpec(name, str(first.dtype), tuple(shape))
