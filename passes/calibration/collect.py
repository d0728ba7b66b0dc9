"""The calibration run: streams batches through the model and keeps statistics of its tensors.

Memory depends on the model and a stated budget, never on the number of samples. When one batch's tensors would exceed
the budget, some are put off to a further sweep over the data.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from enginery.errors import DataError, StatisticsError
from enginery.passes.base import OpenModel
from enginery.passes.calibration.batches import BatchCheck, Batches
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.calibration.sweep import Calibrated, Count, Progress, Seen, Sweep


def collect(
    model: Path,
    batches: Batches,
    *,
    open_model: OpenModel,
    dims: Mapping[str, tuple[int, int, int]] | None = None,
    input_dims: Mapping[str, tuple[int | str, ...]] | None = None,
    memory_budget: int = 2 << 30,
    masks: Sequence[str] = (),
    histograms: bool = True,
    tensors: Sequence[str] | None = None,
    resume: Statistics | None = None,
    random: bool = False,
    progress: Progress | None = None,
    count: Count | None = None,
) -> Statistics:
    """Run `model` over all batches and return what its tensors held.

    Args:
        model: The ONNX file to calibrate, before quantization.
        batches: Opens the data anew; called once for each sweep. Shapes may vary from batch to batch.
        open_model: How to run a model.
        dims: (min, opt, max) of each named dimension; a batch outside of them is refused.
        input_dims: The declared shape of each input.
        memory_budget: Bytes that the tensors of one batch may take at once.
        masks: Inputs that mark valid positions (nonzero); other positions are left out of every tensor that has the
            mask's dimensions.
        histograms: False records ranges only: faster, and enough for the `minmax` and `moving-average` observers.
        tensors: What to observe; by default everything that some policy could quantize.
        resume: Statistics of an interrupted run over the same model; batches that it has seen are skipped.
        random: Marks the statistics as taken from random data.
        progress: Told (batches done, batches in total or None while unknown), over all sweeps.
        count: How many batches one sweep has, where the caller knows; asked while they stream.

    Returns:
        Statistics; `complete` is False when Ctrl-C ended the run, and what was seen until then is kept.

    Raises:
        DataError: no data, a single sample, other data on a second sweep, or a batch that is incomplete, not finite or
            outside the declared dimensions.
        StatisticsError: `resume` belongs to another graph, or left out other positions.
    """
    calibrated = Calibrated.open(model, open_model, masks)
    if resume is not None:
        resume.require_graph(calibrated.digest)
        if resume.masks != tuple(masks):
            raise StatisticsError(
                f"The interrupted run had the masks {list(resume.masks)}, this one has {list(masks)}: they cannot be "
                "added up. Calibrate anew."
            )
    wanted = list(tensors if tensors is not None else calibrated.observable)
    known = [name for name in wanted if resume is not None and name in resume.tensors]
    later = [name for name in wanted if known and name not in known]
    check = BatchCheck(calibrated.inputs, dict(input_dims or {}), dict(dims or {}))
    found = dict(resume.tensors) if resume is not None else {}
    complete = True
    with tempfile.TemporaryDirectory(prefix="enginery-calibrate-") as folder:
        first = Sweep(calibrated, known or wanted, Path(folder), memory_budget, histograms=histograms)
        if resume is not None:
            first.seen = Seen(resume.batches, resume.samples, resume.tensors)
        try:
            first.run(batches, check, progress, count=count)
            later += first.put_off
            done, every = 0, len(first.seen.batches)
            while later:
                done += every
                sweep = Sweep(calibrated, later, Path(folder), memory_budget, histograms=histograms)
                sweep.run(batches, None, progress, before=done, count=lambda: every)
                if Counter(sweep.seen.batches) != Counter(first.seen.batches):
                    raise DataError("The calibration data changed between two sweeps. Fix its order and random seed.")
                found |= sweep.seen.tensors
                later = sweep.put_off
        except KeyboardInterrupt:
            complete = False
    found |= first.seen.tensors
    if not first.seen.batches:
        raise DataError("Calibration got no batch. Give `data.calibration` in the recipe at least two samples.")
    if complete and first.seen.samples < 2 and not random:
        raise DataError("Calibration got one sample; ranges would fit that one only. Give at least two, better 100.")
    return Statistics(
        graph_digest=calibrated.digest,
        batches=tuple(sorted(first.seen.batches)),
        samples=first.seen.samples,
        tensors={name: found[name] for name in sorted(found) if name not in later},
        random=random or (resume is not None and resume.random),
        complete=complete,
        masks=tuple(masks),
    )
