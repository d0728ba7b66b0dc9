"""The calibration run: what it counts, what it refuses, and what it survives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from quantizable import ModelBuilder, calibrate, conv_net, images, mlp_block, normal_batches, run_all, sequences

from enginery.errors import DataError, StatisticsError
from enginery.passes.calibration import random_batches


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conv_net(tmp_path_factory.mktemp("conv") / "model.onnx")


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp_block(tmp_path_factory.mktemp("mlp") / "model.onnx")


def test_ranges_equal_those_of_the_real_values(conv: Path) -> None:
    found = calibrate(conv, images()).tensors
    logits = run_all(conv, images())
    assert found["logits"].low == pytest.approx(logits.min(), rel=1e-5)
    assert found["logits"].channel_high == pytest.approx(logits.max(axis=0), rel=1e-5)
    assert found["logits"].channel_mean == pytest.approx(logits.mean(axis=0), rel=1e-4, abs=1e-5)
    assert found["image"].count == 6 * 8 * 3 * 16 * 16
    assert found["stem.act"].channel_low.shape == (16,)
    assert found["stem.act"].histogram.counts.sum() == found["stem.act"].count


def test_every_input_and_output_of_compute_nodes_is_observed(conv: Path) -> None:
    found = calibrate(conv, images()).tensors
    assert {"image", "stem", "stem.act", "pool", "sum", "both", "mean", "flat", "logits"} <= set(found)


def test_a_histogram_that_follows_from_another_equals_the_counted_one(conv: Path, tmp_path: Path) -> None:
    from enginery.engines.onnxruntime import open_model
    from enginery.passes.calibration import collect
    from enginery.passes.calibration.derived import Derived, derived_histograms
    from enginery.passes.calibration.sweep import Calibrated
    from enginery.passes.calibration.tensor_statistics import observe

    batch = next(images()())
    together = collect(conv, lambda: [batch], open_model=open_model).tensors
    derived = derived_histograms(onnx.load(conv), frozenset(together))
    assert derived["point.act"] == Derived("point", rectified=True)
    assert derived["flat"] == Derived("mean", rectified=False)
    values = Calibrated.open(conv, open_model, ()).expose(tmp_path / "exposed.onnx", tuple(together))(batch)
    for name in derived:
        counted = observe(values[name])
        assert counted is not None
        assert together[name].histogram == counted.histogram
        assert together[name].energy == counted.energy


def test_shapes_may_vary_between_batches(mlp: Path) -> None:
    found = calibrate(mlp, sequences()).tensors["a.gelu"]
    assert found.batches == 6
    assert found.count == sum(4 * (5 + index) * 64 for index in range(6))


def test_a_small_budget_takes_more_sweeps_and_finds_the_same(mlp: Path) -> None:
    whole, parts = calibrate(mlp, sequences()), calibrate(mlp, sequences(), memory_budget=20_000)
    assert set(whole.tensors) == set(parts.tensors)
    assert not whole.diff(parts, tolerance=1e-6)
    assert parts.samples == whole.samples
    assert parts.data_digest == whole.data_digest


def test_a_small_budget_bounds_what_one_run_returns(mlp: Path) -> None:
    from enginery.engines.onnxruntime import open_model
    from enginery.passes.calibration import collect

    largest = 0

    def watched(model: Path, *, optimize: bool = False):
        run = open_model(model, optimize=optimize)

        def watch(feeds):
            nonlocal largest
            outputs = run(feeds)
            largest = max(largest, sum(array.nbytes for array in outputs.values()))
            return outputs

        return watch

    collect(mlp, sequences(), open_model=watched, memory_budget=20_000)
    assert largest <= 20_000


def test_progress_counts_the_batches_of_all_sweeps(mlp: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    calibrate(
        mlp, sequences(), memory_budget=20_000, count=lambda: 6, progress=lambda done, all_: heard.append((done, all_))
    )
    done, totals = zip(*heard, strict=True)
    assert done == tuple(range(1, len(heard) + 1))
    # How many sweeps there will be is estimated, since later batches are longer.
    assert totals[0] > 6
    assert heard[-1] == (len(heard), len(heard))


def test_data_that_changes_between_sweeps_is_refused(mlp: Path) -> None:
    calls = iter(range(100))

    def changing():
        return sequences(seed=next(calls))()

    with pytest.raises(DataError, match="changed between two sweeps"):
        calibrate(mlp, changing, memory_budget=20_000)


def test_ranges_alone_leave_histograms_out(mlp: Path) -> None:
    found = calibrate(mlp, sequences(), histograms=False).tensors["a.gelu"]
    assert not found.histogram
    assert found.high == calibrate(mlp, sequences()).tensors["a.gelu"].high


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (normal_batches("x"), "got no batch"),
        (normal_batches("x", (1, 5, 32)), "got one sample"),
        (normal_batches("y", (2, 5, 32)), r"Batch 0 has inputs \['y'\]; the model expects \['x'\]"),
        (normal_batches("x", (2, 5, 32), (2, 99, 32)), "Batch 1, input 'x' .* dimension 'seq' is 99, declared 1 to 16"),
        (normal_batches("x", (2, 5, 31)), r"Batch 0, input 'x' has shape \[2, 5, 31\]; expected"),
        (normal_batches("x", (2, 32)), r"Batch 0, input 'x' has shape \[2, 32\]; expected"),
    ],
)
def test_bad_data_is_refused(mlp: Path, batches, message: str) -> None:
    dims = {"batch": (1, 4, 8), "seq": (1, 8, 16)}
    with pytest.raises(DataError, match=message):
        calibrate(mlp, batches, dims=dims, input_dims={"x": ("batch", "seq", 32)})


def test_not_finite_data_is_refused_naming_batch_and_input(mlp: Path) -> None:
    def poisoned() -> Iterator[dict[str, np.ndarray]]:
        for feeds in sequences()():
            feeds["x"][0, 0, 0] = np.nan
            yield feeds

    with pytest.raises(DataError, match="Batch 0, input 'x' holds NaN"):
        calibrate(mlp, poisoned)


def test_random_batches_are_at_the_optimal_shape_and_mark_the_statistics(mlp: Path) -> None:
    batches = random_batches({"x": ("batch", "seq", 32)}, {"x": "float32"}, {"batch": (1, 2, 8), "seq": (1, 8, 16)})
    assert {feeds["x"].shape for feeds in batches()} == {(2, 8, 32)}
    assert calibrate(mlp, batches, random=True).random
    assert not calibrate(mlp, sequences()).random


def test_an_interrupted_run_keeps_what_it_saw_and_resumes(mlp: Path) -> None:
    def interrupted(done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    part = calibrate(mlp, sequences(), progress=interrupted)
    assert not part.complete
    assert len(part.batches) == 3
    whole = calibrate(mlp, sequences(), resume=part)
    assert whole.complete
    expected = calibrate(mlp, sequences())
    assert whole.batches == expected.batches
    assert not whole.diff(expected, tolerance=1e-9)
    assert whole.tensors["a.gelu"].count == expected.tensors["a.gelu"].count


def test_an_interrupted_second_sweep_keeps_the_tensors_of_the_first(mlp: Path) -> None:
    calls = 0

    def interrupted(done: int, total: int | None) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt

    part = calibrate(mlp, sequences(), memory_budget=20_000, progress=interrupted)
    assert len(part.batches) == 6
    assert all(tensor.batches == 6 for tensor in part.tensors.values())
    whole = calibrate(mlp, sequences(), memory_budget=20_000, resume=part)
    assert not whole.diff(calibrate(mlp, sequences()), tolerance=1e-9)
    assert all(tensor.batches == 6 for tensor in whole.tensors.values())


def test_statistics_of_another_graph_do_not_resume(mlp: Path, conv: Path) -> None:
    with pytest.raises(StatisticsError, match="belong to graph"):
        calibrate(mlp, sequences(), resume=calibrate(conv, images()))


def masked_model(path: Path) -> Path:
    b = ModelBuilder({"x": ("batch", "seq", 8), "mask": ("batch", "seq")})
    x = b.linear("x", "first", 8, 8)
    scores = b.op("MatMul", [x, b.op("Transpose", [x], "flipped", perm=[0, 2, 1])], "scores")
    kept = b.op("Unsqueeze", ["mask", b.weight("axis", np.array([2]))], "kept")
    b.op("Mul", [b.op("MatMul", [scores, x], "mixed"), kept], "out")
    return b.save(path, "out")


def test_an_interrupted_run_with_other_masks_does_not_resume(tmp_path: Path) -> None:
    def batches():
        rng = np.random.default_rng(0)
        for _ in range(3):
            yield {"x": rng.standard_normal((2, 6, 8)).astype(np.float32), "mask": np.ones((2, 6), np.float32)}

    model = masked_model(tmp_path / "model.onnx")
    part = calibrate(model, batches)
    with pytest.raises(StatisticsError, match=r"had the masks \[\], this one has \['mask'\]"):
        calibrate(model, batches, masks=["mask"], resume=part)


def test_masked_positions_are_left_out(tmp_path: Path) -> None:
    def padded() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        for _ in range(3):
            x = rng.standard_normal((2, 6, 8)).astype(np.float32)
            x[:, 4:] = 100.0
            mask = np.ones((2, 6), np.float32)
            mask[:, 4:] = 0
            yield {"x": x, "mask": mask}

    model = masked_model(tmp_path / "model.onnx")
    found = calibrate(model, padded, masks=["mask"]).tensors
    assert found["x"].high < 10 < calibrate(model, padded).tensors["x"].high
    assert found["x"].masked
    assert found["x"].count == 3 * 2 * 4 * 8
    assert found["scores"].channel_low.shape == (6,)
    assert found["scores"].count == 3 * 2 * 4 * 6


def test_an_unknown_mask_is_refused(mlp: Path) -> None:
    with pytest.raises(DataError, match=r"Masks \['attention'\] are no inputs of the model"):
        calibrate(mlp, sequences(), masks=["attention"])


def test_external_weights_are_calibrated_and_part_of_the_digest(mlp: Path, tmp_path: Path) -> None:
    model = onnx.load(mlp)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    external = calibrate(tmp_path / "model.onnx", sequences())
    inside = calibrate(mlp, sequences())
    assert external.graph_digest == inside.graph_digest
    assert not external.diff(inside, tolerance=1e-9)
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.write(b"\x01\x02")
    assert calibrate(tmp_path / "model.onnx", sequences()).graph_digest != inside.graph_digest
