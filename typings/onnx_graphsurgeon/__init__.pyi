# The part of onnx-graphsurgeon's API that Enginery uses; the package ships no types.
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx

class Tensor:
    name: str
    inputs: list[Node]
    outputs: list[Node]
    shape: Any
    dtype: Any
    def is_empty(self) -> bool: ...

class Variable(Tensor):
    type: str
    def __init__(
        self, name: str, dtype: Any = ..., shape: Sequence[int | str | None] | None = ..., type: str = ...
    ) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class Constant(Tensor):
    values: Any
    data_location: int | None
    _values: Any
    def __init__(self, name: str, values: Any, data_location: int | None = ..., export_dtype: Any = ...) -> None: ...

class Node:
    class AttributeRef:
        name: str
        type: type[Any]

    op: str
    name: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = ...,
        attrs: Mapping[str, Any] | None = ...,
        inputs: Sequence[Tensor] | None = ...,
        outputs: Sequence[Tensor] | None = ...,
        domain: str | None = ...,
    ) -> None: ...
    def subgraphs(self, recursive: bool = ...) -> Iterator[Graph]: ...

class Graph:
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    name: str
    opset: int
    import_domains: Any
    ir_version: int | None
    functions: list[Function]
    def __init__(
        self,
        nodes: Sequence[Node] | None = ...,
        inputs: Sequence[Tensor] | None = ...,
        outputs: Sequence[Tensor] | None = ...,
        name: str | None = ...,
        doc_string: str | None = ...,
        opset: int | None = ...,
        import_domains: Any = ...,
        producer_name: str | None = ...,
        producer_version: str | None = ...,
        functions: Sequence[Function] | None = ...,
        ir_version: int | None = ...,
    ) -> None: ...
    def tensors(self, check_duplicates: bool = ...) -> dict[str, Tensor]: ...
    def subgraphs(self, recursive: bool = ...) -> Iterator[Graph]: ...

class Function(Graph):
    domain: str
    attrs: dict[str, Any]

def import_onnx(onnx_model: onnx.ModelProto) -> Graph: ...
def export_onnx(graph: Graph, do_type_check: bool = ..., **kwargs: Any) -> onnx.ModelProto: ...
