"""Operators that TensorRT has not, or has in one form only.

The list of absent operators is what the parser of TensorRT-RTX 1.7 answers for each of ONNX 1.23's operators
(`OnnxParser.supports_operator`); the tests ask it again. The forms were each built, or refused, in a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule, Severity
from enginery.passes.graph.conformance.contrib import has_form
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

ABSENT: Final = frozenset(
    """AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress
    ConcatFromSequence ConvInteger CumProd DFT DeformConv Det DynamicQuantizeLinear ImageDecoder MatMulInteger
    MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement
    OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer
    StringSplit SwiGLU TfIdfVectorizer Unique""".split()  # noqa: SIM905 (46 names read better as text)
)

CONTRIB: Final = frozenset(
    """Attention DequantizeLinear Gelu GroupQueryAttention MatMulNBits MultiHeadAttention QuantizeLinear RotaryEmbedding
    SimplifiedLayerNormalization SkipSimplifiedLayerNormalization""".split()  # noqa: SIM905 (as above)
)
"""Operators of com.microsoft that the parser takes. It looks at an operator's name, not at its domain."""

TOPK_LIMIT: Final = 3840


@dataclass(frozen=True)
class Form:
    """A form of an operator that is refused: `when` recognizes it."""

    op: str
    when: Callable[[gs.Node], bool]
    reason: str
    versions: str = "all versions"
    severity: Severity = "error"


def _used(node: gs.Node, index: int) -> bool:
    return len(node.outputs) > index and not node.outputs[index].is_empty()


def _constant(node: gs.Node, index: int) -> np.ndarray | None:
    given = node.inputs[index] if len(node.inputs) > index else None
    return peek(given) if given is not None and is_known(given) else None


def _trains(node: gs.Node) -> bool:
    mode = _constant(node, 2)
    return mode is not None and bool(mode.any())


def _large_k(node: gs.Node) -> bool:
    k = _constant(node, 1)
    return k is not None and int(k.reshape(-1)[0]) > TOPK_LIMIT


def _float32(node: gs.Node) -> bool:
    return node.inputs[0].dtype is not None and numpy_dtype(node.inputs[0]) == np.float32


_CRASH: Final = "crashes the builder where there is no GPU; lower it to MatMul and Softmax"

FORMS: Final = (
    Form("MaxPool", lambda n: _used(n, 1), "returns indices; TensorRT's MaxPool has one output"),
    Form("LayerNormalization", lambda n: _used(n, 1), "returns mean or deviation; TensorRT's has one output"),
    Form("BatchNormalization", lambda n: bool(n.attrs.get("training_mode")), "is in training mode"),
    Form("Dropout", _trains, "is in training mode"),
    Form("Resize", lambda n: bool(n.attrs.get("antialias")), "asks for antialiasing, which TensorRT does not have"),
    Form("TopK", _large_k, f"asks for more than {TOPK_LIMIT} elements, TensorRT's limit"),
    Form("MatMulNBits", _float32, "has float32 activations; TensorRT takes float16"),
    Form("Attention", lambda _: True, _CRASH, "tensorrt-rtx 1.7", "warning"),
    Form("Scan", lambda _: True, "is refused by the parser", "tensorrt-rtx 1.7"),
    Form("NonZero", lambda _: True, "needs a plugin that TensorRT-RTX does not carry", "tensorrt-rtx"),
)  # fmt: skip


class UnsupportedOperator(Rule):
    """Operators that TensorRT does not have, and forms of operators that it refuses. Other rules fix some before."""

    name: ClassVar[str] = "unsupported-operator"

    def matches(self, edits: Edits) -> Iterable[Match]:
        local = {(function.domain, function.name) for function in edits.names.model.functions}
        for node in edits.graph.nodes:
            if (node.domain, node.op) in local or has_form(node):
                continue
            if node.domain not in (None, "", "ai.onnx") and node.op not in CONTRIB:
                yield Match(label(node), f"is {node.domain}.{node.op}, an operator that TensorRT does not have")
            elif node.op in ABSENT:
                yield Match(label(node), f"is {node.op}, an operator that TensorRT does not have")


class UnsupportedForm(Rule):
    """Operators that TensorRT has, in a form that it refuses (`FORMS`)."""

    name: ClassVar[str] = "unsupported-form"

    def __init__(self, form: Form) -> None:
        # An instance has values of its own, which shadow the class variables that a rule of one row has.
        vars(self).update(versions=form.versions, severity=form.severity)
        self.form = form

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if node.op == self.form.op and not has_form(node) and self.form.when(node):
                yield Match(label(node), f"{node.op} {self.form.reason}")
