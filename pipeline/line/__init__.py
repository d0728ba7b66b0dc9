"""The line of stages for one recipe, wired to the store.

`data` opens the data sets; `original` loads, compresses and answers; `graph` exports and optimizes; `calibration`
measures ranges; `precision` quantizes; `engine` compiles, validates and benchmarks. `Line` is all of them.
"""

from enginery.pipeline.line.calibration import NEEDS_STATISTICS
from enginery.pipeline.line.engine import RUNTIMES, Line
from enginery.pipeline.line.graph import MODEL
from enginery.pipeline.line.precision import FLOAT_MODES, TYPED_GRAPHS
from enginery.pipeline.line.wiring import BENCHMARK_SECONDS, LITERAL, MEMORY_BUDGET

__all__ = [
    "BENCHMARK_SECONDS",
    "FLOAT_MODES",
    "LITERAL",
    "MEMORY_BUDGET",
    "MODEL",
    "NEEDS_STATISTICS",
    "RUNTIMES",
    "TYPED_GRAPHS",
    "Line",
]
