"""The sum of embeddings and its normalization, as ONNX Runtime's one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.lower.residual_norm import weights_objection
from enginery.passes.graph.matcher import Known, Match, OneOf, Op, Rule, RulePass, Var
from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


def _rows(name: str) -> Op:
    return Op("Gather", Known(f"{name}_table"), Var(name), name=f"{name}_rows")


_NAMES = ("first", "second", "third")
_SUM = OneOf(
    Op("Add", Op("Add", _rows("first"), _rows("second")), _rows("third")), Op("Add", _rows("first"), _rows("second"))
)


class _EmbeddingNorm(Rule):
    patterns = (Op("LayerNormalization", _SUM, Var("scale"), Var("bias"), name="norm"),)

    def __init__(self, *, write: bool) -> None:
        self._write = write

    def check(self, match: Match) -> str | None:
        for name in _given(match):
            dims = match.dims(name)
            if dims is None or len(dims) != 2 or match.named[f"{name}_rows"].attrs.get("axis", 0) != 0:
                return f"the ids {match[name].name!r} have shape {dims}; (batch, length) is needed"
        if objection := _tables(match):
            return objection
        if _roles(match) is None:
            return f"the ids have the shapes {', '.join(str(match.dims(name)) for name in _given(match))}"
        if match.named["norm"].attrs.get("axis", -1) not in (-1, 2):
            return "it normalizes over more than the last dimension"
        if any(not each.is_empty() for each in match.named["norm"].outputs[1:]):
            return "its mean or deviation is read"
        if not self._write:
            return "sum of embeddings and norm recognized; no gain was measured from one kernel on this target"
        return None

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        roles = _roles(match)
        assert roles is not None
        words, segments, positions = roles
        ids = [_integer(match, name, edits) for name in (words, segments)]
        tables = [match[f"{name}_table"] if name else edits.empty() for name in (words, positions, segments)]
        inputs = [*ids, *tables, match["scale"], match["bias"], edits.empty(), _integer(match, positions, edits)]
        made = edits.variable(f"{match.output.name}_fused", match.output)
        index = edits.variable(f"{match.output.name}_mask_index")
        index.dtype = np.dtype(np.int32)
        attrs = {"epsilon": match.named["norm"].attrs.get("epsilon", 1e-5)}
        outputs: list[gs.Tensor] = [made, index]
        op = "EmbedLayerNormalization"
        edits.node(op, inputs, at=match.root, takes_name=True, attrs=attrs, domain="com.microsoft", outputs=outputs)
        return made


def _tables(match: Match) -> str | None:
    """Why the kernel cannot read the tables, or the weights of the norm; None when it can."""
    shapes = [match.dims(f"{name}_table") for name in _given(match)]
    width = shapes[0][-1] if shapes[0] else ""
    if any(shape is None or len(shape) != 2 or shape[1] != width for shape in shapes):
        return f"the tables have the shapes {', '.join(map(str, shapes))}"
    return weights_objection(match, width)


def _given(match: Match) -> list[str]:
    return [name for name in _NAMES if name in match]


def _roles(match: Match) -> tuple[str, str, str] | None:
    """Which embedding is read as that of words, of segments ("" without), and of positions; None where none fits.

    The kernel takes words and segments of one shape, and positions of that shape or of batch 1.
    """
    given = _given(match)
    shapes = {name: match.dims(name) for name in given}
    for positions in reversed(given):
        words, *segments = (name for name in given if name != positions)
        whole = shapes[words]
        assert whole is not None
        if all(shapes[name] == whole for name in segments) and shapes[positions] in (whole, (1, *whole[1:])):
            return words, segments[0] if segments else "", positions
    return None


def _integer(match: Match, name: str, edits: Edits) -> gs.Tensor:
    """The ids as int32, the only type that the kernel reads."""
    if not name:
        return edits.empty()
    cast = edits.node("Cast", [match[name]], at=match.root, attrs={"to": 6}, name=f"{match[name].name}/int32")
    dims = dims_of(match[name])
    cast.dtype, cast.shape = np.dtype(np.int32), list(dims) if dims is not None else None
    return cast


@dataclass(frozen=True)
class LowerToEmbeddingNorm(RulePass):
    """Writes a sum of embeddings and its normalization as `com.microsoft.EmbedLayerNormalization`.

    1. LayerNormalization(words + positions), with rows of a third table of segments or without, becomes one node that
       looks up, adds and normalizes. Its ids are cast to int32.
    2. Ids that are not (batch, length), or segments of another shape than the words, are left. (Refused.) So are tables
       of different width, and a scale or bias that is not as wide as they are.
    3. A norm over more than the last dimension, or whose other outputs are read, is left. (Refused.)
    4. A sum that something else reads keeps its form. (Refused.)
    5. With `write=false` nothing changes, and every place is named. (Refused.)
    """

    name: ClassVar[str] = "lower-to-embedding-norm"
    in_functions: ClassVar[bool] = False

    write: bool = True

    def rules(self) -> tuple[Rule, ...]:
        return (_EmbeddingNorm(write=self.write),)
