import numpy as np
import pytest

from enginery.errors import DataError
from enginery.passes.module.training.batches import count, epoch


def opened(sizes, *, labels=True, width=2):
    def batches():
        start = 0
        for size in sizes:
            y = np.arange(start, start + size)
            start += size
            yield {"x": np.repeat(y[:, None], width, 1).astype(np.float32)}, (y if labels else None)

    return batches


def seen(pairs):
    return [int(label) for _, labels in pairs for label in labels]


@pytest.mark.parametrize("window", [1, 64, 1 << 20])
@pytest.mark.parametrize("batch", [None, 4])
def test_every_sample_comes_once_with_its_label(batch, window):
    pairs = list(epoch(opened([5, 5, 6]), batch=batch, seed=0, window_bytes=window))
    assert sorted(seen(pairs)) == list(range(16))
    assert all((feeds["x"][:, 0] == labels).all() for feeds, labels in pairs)


def test_the_seed_fixes_the_order():
    def order(seed):
        return seen(epoch(opened([8, 8]), batch=4, seed=seed))

    assert order(1) == order(1) != order(2)
    assert order(1) != sorted(order(1))


def test_an_incomplete_last_batch_is_dropped_unless_it_is_the_only_one():
    assert [len(labels) for _, labels in epoch(opened([5, 4]), batch=4, seed=0)] == [4, 4]
    assert [len(labels) for _, labels in epoch(opened([3]), batch=4, seed=0)] == [3]


@pytest.mark.parametrize(("sizes", "batch"), [([5, 4], 4), ([5, 4], None), ([3], 4)])
def test_count_is_the_number_of_batches(sizes, batch):
    assert count(opened(sizes), batch=batch) == len(list(epoch(opened(sizes), batch=batch, seed=0)))


def test_data_without_labels_stays_without():
    assert all(labels is None for _, labels in epoch(opened([4, 4], labels=False), batch=2, seed=0))


def test_empty_data_is_refused():
    with pytest.raises(DataError, match="training data is empty"):
        list(epoch(opened([]), batch=None, seed=0))


def test_samples_of_different_shapes_cannot_be_regrouped():
    def batches():
        yield from opened([4], width=2)()
        yield from opened([4], width=3)()

    assert len(list(epoch(batches, batch=None, seed=0))) == 2
    with pytest.raises(DataError, match="input x has samples of different shapes"):
        list(epoch(batches, batch=4, seed=0))


def test_labels_that_do_not_count_samples_cannot_be_regrouped():
    def pairs():
        yield {"x": np.zeros((4, 2), np.float32)}, np.zeros(2)

    with pytest.raises(DataError, match="4 samples came with 2 labels"):
        list(epoch(pairs, batch=2, seed=0))
