"""An engine beside the original: figures, never verdicts.

`outputs` compares arrays, `shapes` chooses the sizes to run, `reference` keeps the original's answers, `validation`
measures an engine against them as `figures`.
"""

from enginery.pipeline.comparison.outputs import NEAR_ZERO, Comparer, Comparison, OutputFigures, check_declared, compare

__all__ = ["NEAR_ZERO", "Comparer", "Comparison", "OutputFigures", "check_declared", "compare"]
