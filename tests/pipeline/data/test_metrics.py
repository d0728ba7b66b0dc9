import numpy as np
import projects
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from enginery.errors import DataError
from enginery.pipeline.data.metrics import METRICS, get_metric
from enginery.pipeline.recipe import Metric


def measure(name, *pairs, output=None):
    metric = get_metric(Metric(name=name, max_drop=0, output=output, higher_is_better=name != "perplexity"), None)
    for values, labels in pairs:
        metric.update({"y": np.asarray(values)}, None if labels is None else np.asarray(labels))
    return metric.result()


def logits(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_top1_over_batches():
    assert measure("top1", ([[1, 2], [3, 0]], [1, 1]), ([[0, 1]], [1])) == pytest.approx(2 / 3)


def test_top1_of_equal_scores_is_the_first():
    assert measure("top1", ([[1, 1, 1]], [0])) == 1
    assert measure("top1", ([[1, 1, 1]], [2])) == 0


def test_top1_per_position():
    assert measure("top1", (logits(2, 5, 7), logits(2, 5, 7).argmax(-1))) == 1


def test_top5():
    scores = np.arange(10.0)[None]
    assert measure("top5", (scores, [5])) == 1
    assert measure("top5", (scores, [4])) == 0


def test_agreement_with_the_originals_output():
    assert METRICS["agreement"].needs == "reference"
    assert measure("agreement", ([[1, 2], [2, 1]], [[0, 9], [0, 1]])) == 0.5


def test_perplexity_ignores_padding():
    scores, labels = logits(2, 3, 5), np.array([[1, 2, -100], [4, -100, -100]])
    log = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    wanted = np.exp(-np.mean([log[0, 0, 1], log[0, 1, 2], log[1, 0, 4]]))
    assert measure("perplexity", (scores, labels)) == pytest.approx(wanted, rel=1e-6)
    assert measure("perplexity", (scores[:1], labels[:1]), (scores[1:], labels[1:])) == pytest.approx(wanted, rel=1e-6)


def test_perplexity_of_large_logits_does_not_overflow():
    assert measure("perplexity", (np.array([[[1e4, 0.0]]]), np.array([[0]]))) == 1


def test_perplexity_of_an_engine_that_lost_everything_is_a_number():
    assert 1e300 < measure("perplexity", (np.array([[[0.0, 1e5]]]), np.array([[0]]))) < np.inf


@given(st.lists(st.integers(0, 5), min_size=4, max_size=30).filter(lambda labels: len(set(labels)) > 1))
def test_spearman_is_scipys(labels):
    embeddings = logits(2 * len(labels), 3)
    cosines = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(embeddings[::2], embeddings[1::2], strict=True)
    ]
    half = len(labels) // 2
    got = measure("spearman-pairs", (embeddings[: 2 * half], labels[:half]), (embeddings[2 * half :], labels[half:]))
    assert got == pytest.approx(scipy.stats.spearmanr(cosines, labels).statistic, abs=1e-6)


def test_spearman_of_equal_labels_is_undefined():
    with pytest.raises(DataError, match="undefined"):
        measure("spearman-pairs", (logits(4, 3), [1, 1]))


@pytest.mark.parametrize(
    ("name", "values", "labels", "message"),
    [
        ("top1", logits(2, 3), [1], r"shape \[2, 3\] has labels of shape \[1\]"),
        ("spearman-pairs", logits(3, 3), [1, 2], "expected two rows for each"),
        ("perplexity", logits(2, 3, 4), [[1, 2]], r"have labels of shape \[1, 2\]"),
        ("agreement", logits(2, 3), logits(2, 4), "the original's"),
        ("top1", logits(2, 3), None, "needs labels, and the evaluation data has none"),
        ("top1", logits(2, 3), [1, 3], "A label is 3, and the output has 3 classes, counted from 0"),
        ("top5", logits(2, 3), [1, -1], "A label is -1"),
        ("top1", logits(2, 3), [1.0, 2.0], "Labels are of type float64"),
        ("perplexity", logits(1, 2, 4), [[-100, 4]], "A label is 4"),
    ],
)
def test_labels_that_do_not_fit(name, values, labels, message):
    with pytest.raises(DataError, match=message):
        measure(name, (values, labels))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_nothing_counted_is_no_figure(name):
    with pytest.raises(DataError, match="counted no sample"):
        measure(name)


def test_an_unknown_output_is_named():
    with pytest.raises(DataError, match=r"scores the output 'z'; the model has \['y'\]"):
        measure("top1", (logits(1, 2), [0]), output="z")


@pytest.fixture
def own(tmp_path):
    projects.write(
        tmp_path,
        metric="""
            def total(pairs):
                return sum(float(outputs["y"].sum()) + labels.sum() for outputs, labels in pairs)

            def first_only(pairs):
                return float(next(iter(pairs))[0]["y"].sum())

            def broken(pairs):
                next(iter(pairs))
                raise KeyError("no such label")

            def nothing(pairs):
                return None
        """,
    )

    def run(name, batches=5):
        metric = get_metric(Metric(python=f"metric.py:{name}", max_drop=0), tmp_path)
        for _ in range(batches):
            metric.update({"y": np.ones((2, 2))}, np.ones(2))
        return metric.result()

    return run


def test_a_function_over_pairs(own):
    assert own("total") == 30


def test_a_function_that_stops_reading(own):
    assert own("first_only", batches=50) == 4


def test_a_function_that_raises(own):
    with pytest.raises(DataError, match=r"measuring raised KeyError: 'no such label' \(metric\.py, line 10"):
        own("broken", batches=50)


def test_a_function_that_returns_no_number(own):
    with pytest.raises(DataError, match="returned None; expected a finite number"):
        own("nothing")
