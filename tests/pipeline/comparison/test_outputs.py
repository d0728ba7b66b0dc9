from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.engines.base import TensorSpec
from enginery.pipeline.comparison import Comparer, Comparison, OutputFigures, check_declared, compare, outputs

Y = TensorSpec("y", "float32", ("batch", 5))
TOKENS = TensorSpec("y", "float32", ("batch", "seq", 5))
LABELS = TensorSpec("y", "int64", ("batch",))


def _one(left: np.ndarray, right: np.ndarray, spec: TensorSpec = Y, tolerance: float = 1e-4) -> Comparison:
    return compare({"y": left}, {"y": right}, [spec], tolerance)


def _floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_equal_answers_hold_and_every_figure_says_so() -> None:
    y = _floats(7, 5)
    found = _one(y, y)
    assert found
    assert found.smallest_tolerance == 0.0
    (figures,) = found.outputs
    assert (figures.samples, figures.max_abs, figures.cosine_min, figures.top1) == (7, 0.0, pytest.approx(1.0), 1.0)
    assert figures.snr == outputs.SNR_HIGH


def test_the_smallest_tolerance_is_the_one_that_would_have_passed() -> None:
    y = _floats(7, 5)
    off = y.copy()
    off[3, 2] += 0.5
    found = _one(y, off)
    assert not found
    tolerance = found.smallest_tolerance
    assert tolerance == pytest.approx(0.5 / np.abs(y).max(), rel=1e-5)
    assert _one(y, off, tolerance=tolerance)
    assert not _one(y, off, tolerance=tolerance * 0.999)


def test_figures_match_their_definitions() -> None:
    left, right = _floats(6, 5), _floats(6, 5, seed=1)
    (figures,) = _one(left, right).outputs
    a, b = left.astype(np.float64), right.astype(np.float64)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    snr = 10 * np.log10((a**2).sum(1) / ((a - b) ** 2).sum(1))
    assert figures.cosine_mean == pytest.approx(cosine.mean())
    assert figures.cosine_min == pytest.approx(cosine.min())
    assert figures.snr == pytest.approx(np.sort(snr)[2], abs=0.01)
    assert figures.mean_abs == pytest.approx(np.abs(a - b).mean())
    assert figures.top1 == pytest.approx((a.argmax(1) == b.argmax(1)).mean())


def test_the_median_snr_sees_what_a_tensor_wide_one_hides() -> None:
    # Three quiet samples are ruined; one loud sample carries the energy.
    left = np.array([[100.0] * 5, [1.0] * 5, [1.0] * 5, [1.0] * 5], np.float32)
    right = left + np.array([[0.1], [0.9], [0.9], [0.9]], np.float32)
    (figures,) = _one(left, right).outputs
    wide = 10 * np.log10((left**2).sum() / ((left - right) ** 2).sum())
    assert wide > 35
    assert figures.snr is not None
    assert figures.snr < 1.0


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (np.full((2, 5), np.nan, np.float32), "NaN or infinite, from the engine"),
        (np.full((2, 5), np.inf, np.float32), "NaN or infinite, from the engine"),
        (np.array([[1] * 5, [1, 1, np.nan, 1, 1]], np.float32), "has 1 values that are NaN or infinite"),
        (np.ones((2, 4), np.float32), "has shape [2, 4] where the original's has [2, 5]"),
        (np.ones((2, 5), np.float64), "has dtype float64; declared: float32"),
    ],
)
def test_faults_never_hold_whatever_the_tolerance(actual: np.ndarray, words: str) -> None:
    found = _one(np.ones((2, 5), np.float32), actual, tolerance=float("inf"))
    assert not found
    assert found.smallest_tolerance is None
    assert words in found.outputs[0].faults[0]


def test_an_original_that_is_not_finite_is_a_fault() -> None:
    """NaN from both is no agreement: nothing was shown."""
    y = np.array([[1, 1, np.nan, 1, 1]], np.float32)
    assert "from the original" in _one(y, y, tolerance=float("inf")).outputs[0].faults[0]


def test_a_sample_of_zeros_agrees_with_itself_alone() -> None:
    y = np.array([[1.0] * 5, [0.0] * 5, [0.0] * 5], np.float32)
    off = y.copy()
    off[1, 2] = 1e-3
    assert _one(y, y).outputs[0].cosine_min == pytest.approx(1.0)
    assert _one(y, off).outputs[0].cosine_min == 0.0
    assert _one(off, y).outputs[0].cosine_min == 0.0


def test_a_missing_output_is_a_fault() -> None:
    found = compare({"y": np.ones((1, 5), np.float32)}, {}, [Y], 1.0)
    assert not found
    assert found.outputs[0].faults == ("is absent from what the engine returned",)


def test_nothing_compared_is_no_agreement() -> None:
    assert not Comparison((), 1.0)
    assert not Comparison(Comparer([Y]).figures(), 1.0)


def test_an_output_near_zero_is_no_agreement() -> None:
    tiny = np.full((2, 5), 1e-9, np.float32)
    assert not _one(tiny, tiny)
    assert not _one(np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32))


def test_integers_must_be_equal() -> None:
    left = np.arange(10)
    assert _one(left, left, LABELS)
    found = _one(left, left + (left == 3), LABELS, tolerance=float("inf"))
    assert not found
    assert found.outputs[0].equal == pytest.approx(0.9)


def test_masked_positions_are_left_out() -> None:
    y = _floats(2, 4, 5)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    off = y.copy()
    off[0, 2:] += 3.0
    spec = TensorSpec("mask", "int64", ("batch", "seq"))

    def run(valid: dict[str, str], actual: np.ndarray) -> Comparison:
        return compare({"y": y}, {"y": actual}, [TOKENS], 1e-6, inputs={"mask": mask}, valid=valid, input_specs=[spec])

    assert not run({}, off)
    masked = run({"y": "mask"}, off)
    assert masked
    assert masked.outputs[0].samples == 6
    off[1, 3] += 3.0
    assert not run({"y": "mask"}, off)


def test_a_sample_of_which_a_part_is_valid_counts() -> None:
    y = _floats(2, 3, 5)
    off = y.copy()
    off[0, 0, 1] += 3.0
    off[1, 2] += 3.0
    image, mask = TensorSpec("y", "float32", ("batch", 3, 5)), np.array([[1, 1, 0], [1, 1, 0]])

    def run(actual: np.ndarray) -> Comparison:
        spec = TensorSpec("mask", "int64", ("batch", 3))
        return compare(
            {"y": y}, {"y": actual}, [image], 1e-6, inputs={"mask": mask}, valid={"y": "mask"}, input_specs=[spec]
        )

    assert run(y).outputs[0].samples == 2
    found = run(off).outputs[0]
    assert found.max_abs == pytest.approx(3.0, rel=1e-6)
    assert found.mean_abs == pytest.approx(3.0 / 20, rel=1e-6)


def test_masked_integers_are_counted_where_they_are_valid() -> None:
    spec, ids = TensorSpec("mask", "int64", ("batch", "seq")), TensorSpec("y", "int64", ("batch", "seq"))
    mask, y = np.array([[1, 1, 0, 0]]), np.array([[5, 6, 7, 8]])
    figures = compare(
        {"y": y},
        {"y": np.array([[5, 7, 7, 9]])},
        [ids],
        0.0,
        inputs={"mask": mask},
        valid={"y": "mask"},
        input_specs=[spec],
    ).outputs[0]
    assert figures.equal == 0.5


def test_a_mask_applies_inside_a_sample_and_in_any_order_of_dimensions() -> None:
    y = _floats(4, 2)
    off = y.copy()
    off[3, 0] += 9.0
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    found = compare(
        {"y": y},
        {"y": off},
        [TensorSpec("y", "float32", ("seq", "batch"))],
        1e-6,
        inputs={"mask": mask},
        valid={"y": "mask"},
        input_specs=[TensorSpec("mask", "int64", ("batch", "seq"))],
    )
    assert found


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 5))
def test_batches_add_up_to_the_whole(rows: int, step: int, seed: int) -> None:
    left, right = _floats(rows, 5, seed=seed), _floats(rows, 5, seed=seed + 1)
    whole, parts = Comparer([Y]), Comparer([Y])
    whole.add({"y": left}, {"y": right}, {})
    for start in range(0, rows, step):
        parts.add({"y": left[start : start + step]}, {"y": right[start : start + step]}, {})
    one, two = whole.figures()[0], parts.figures()[0]
    assert one.samples == two.samples
    assert one.snr == two.snr
    assert one.relative == pytest.approx(two.relative)
    assert one.cosine_mean == pytest.approx(two.cosine_mean)


def test_rows_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = _floats(64, 5), _floats(64, 5, seed=1)
    whole = _one(left, right).outputs[0]
    monkeypatch.setattr(outputs, "CHUNK_ELEMENTS", 15)
    pieces = _one(left, right).outputs[0]
    assert pieces.samples == whole.samples
    assert pieces.cosine_mean == pytest.approx(whole.cosine_mean)
    assert pieces.max_abs == whole.max_abs


def test_samples_are_rows_over_the_leading_dynamic_dimensions() -> None:
    assert _one(_floats(2, 3, 5), _floats(2, 3, 5), TOKENS).outputs[0].samples == 6
    image = TensorSpec("y", "float32", ("batch", 3, "h", "w"))
    assert _one(_floats(2, 3, 4, 4), _floats(2, 3, 4, 4), image).outputs[0].samples == 2
    scores = TensorSpec("y", "float32", ("batch",))
    assert _one(_floats(6), _floats(6), scores).outputs[0].samples == 1
    scalar = TensorSpec("y", "float32", ())
    assert _one(np.float32(2.0).reshape(()), np.float32(2.0).reshape(()), scalar)


def test_figures_survive_a_file() -> None:
    figures = _one(_floats(3, 5), _floats(3, 5, seed=1)).outputs[0]
    assert OutputFigures.from_json(figures.to_json()) == figures


def test_outputs_are_checked_against_what_is_declared() -> None:
    good = np.ones((2, 5), np.float32)
    assert check_declared({"y": good}, [Y], {"batch": 2}) == []
    assert check_declared({}, [Y], {}) == ["output 'y' is absent"]
    assert "expected [3, 5]" in check_declared({"y": good}, [Y], {"batch": 3})[0]
    assert "NaN or infinite" in check_declared({"y": good * np.nan}, [Y], {"batch": 2})[0]
    assert "dtype float64" in check_declared({"y": good.astype(np.float64)}, [Y], {"batch": 2})[0]
    assert check_declared({"y": good}, [TensorSpec("y", "float32", ("rows", 5))], {}) == []
