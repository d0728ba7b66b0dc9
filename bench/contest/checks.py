"""What does not depend on who else uses the machine: fidelity, and memory while running."""

from __future__ import annotations

import gc
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contest.builds import Builder, Built
from contest.cases import feeds_of
from contest.memory import run_mb
from contest.sessions import Run, open_candidate

FLOAT, INTEGER = 0.9999, 0.97
"""Mean cosines: float-like, and the least for an int8 candidate to count as right."""

BASELINE = "onnxruntime"
KEPT = "candidates.pickle"


@dataclass(frozen=True)
class Checked:
    """A candidate with its cosines to the baseline on evaluation data, or the reason why it is left out."""

    built: Built
    reason: str = ""
    mean: float = float("nan")
    worst: float = float("nan")
    run_mb: float | None = None

    @property
    def verdict(self) -> str:
        """Integers are never `float-like`: on random weights their cosine proves nothing."""
        if self.built.integer:
            return "int8" if self.mean >= INTEGER else "wrong"
        return "float-like" if self.mean >= FLOAT else "wrong"


def check(builder: Builder, *, quick: bool) -> list[Checked]:
    """Build, open and compare every candidate, and keep what was found in the work folder."""
    candidates = list(builder.everything(quick=quick))
    batches = builder.evaluation()
    baseline = open_candidate(next(each for each in candidates if each.name == BASELINE), builder)
    exact = [baseline(feeds).copy() for feeds in batches]
    found = [_check(built, builder, batches, exact) for built in candidates]
    if not quick:
        largest = feeds_of(builder.case, builder.case.shapes[-1])
        found = [each if each.reason else replace(each, run_mb=run_mb(each.built, builder, largest)) for each in found]
    (builder.folder / KEPT).write_bytes(pickle.dumps(found))
    return found


def kept(folder: Path) -> list[Checked]:
    """What the last `check` found, whatever became of the code since.

    Raises:
        FileNotFoundError: nothing was built there.
    """
    return pickle.loads((folder / KEPT).read_bytes())


def _check(built: Built, builder: Builder, batches: list[dict[str, np.ndarray]], exact: list[np.ndarray]) -> Checked:
    reason = built.reason
    try:
        if not reason:
            return Checked(built, "", *_cosines(open_candidate(built, builder), exact, batches))
    except Exception as error:  # noqa: BLE001 - another project's failure, of whatever kind, is a row
        reason = f"does not run: {str(error).splitlines()[0][:160]}"
    finally:
        gc.collect()
    print(f"left out: {built.name}: {reason}", flush=True)
    return Checked(built, reason)


def _cosines(run: Run, exact: list[np.ndarray], batches: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    cosines: list[float] = []
    for feeds, expected in zip(batches, exact, strict=True):
        found = run(feeds)
        left, right = (each.reshape(len(each), -1).astype(np.float64) for each in (found, expected))
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines += list((left * right).sum(axis=1) / np.maximum(norms, 1e-30))
    return float(np.mean(cosines)), float(np.min(cosines))
