from typing import Any

from onnx_graphsurgeon import Constant as Constant
from onnx_graphsurgeon import Tensor as Tensor
from onnx_graphsurgeon import Variable as Variable

class LazyValues:
    tensor: Any
    shape: Any
    dtype: Any
    nbytes: int
    def __init__(self, tensor: Any) -> None: ...
    def load(self) -> Any: ...

class SparseValues(LazyValues): ...
