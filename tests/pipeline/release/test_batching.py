import numpy as np
import pytest

from enginery.engines.base import DimRange, Session, TensorSpec
from enginery.pipeline.release.batching import BatchPoint, batch_sizes, measure, plan


@pytest.mark.parametrize(
    ("smallest", "largest", "sizes"),
    [(1, 8, (1, 2, 4, 8)), (1, 6, (1, 2, 4, 6)), (3, 20, (3, 4, 8, 16, 20)), (1, 1, (1,)), (2, 2, (2,))],
)
def test_sizes_are_powers_of_two_and_the_ends(smallest, largest, sizes):
    assert batch_sizes(smallest, largest) == sizes


def points(*milliseconds):
    return [BatchPoint(1 << power, value / 1000) for power, value in enumerate(milliseconds)]


def test_the_knee_is_preferred_and_not_the_largest():
    chosen = plan(points(1.0, 1.1, 1.2, 2.35, 4.7))
    assert chosen.preferred == 4
    assert chosen.delay_us == 500
    assert "batch 4 gives 3.33 times" in chosen.words


def test_latency_that_grows_with_the_batch_is_not_worth_a_queue():
    chosen = plan(points(1.0, 2.0, 4.0, 7.9))
    assert chosen.preferred is None
    assert "no dynamic batching" in chosen.words


def test_one_point_says_nothing():
    assert plan(points(1.0)).preferred is None


def test_the_order_of_the_points_does_not_matter():
    assert plan(points(1.0, 1.1, 1.2)[::-1]).preferred == 4


def test_the_wait_is_bounded():
    assert plan([BatchPoint(1, 10.0), BatchPoint(2, 10.0)]).delay_us == 10_000
    assert plan([BatchPoint(1, 1e-7), BatchPoint(2, 1e-7)]).delay_us == 1


class Recorded(Session):
    """An engine that remembers the shapes it ran."""

    def __init__(self):
        spec = TensorSpec("x", "float32", ("batch", "seq"))
        super().__init__((spec,), (spec,), {"batch": DimRange(1, 4, 8), "seq": DimRange(1, 5, 9)})
        self.ran: list[tuple[int, ...]] = []

    def _run(self, feeds):
        self.ran.append(feeds["x"].shape)
        return dict(feeds)

    def describe(self):
        return {}


def test_every_size_runs_in_turns_with_the_other_dimensions_as_they_are():
    session = Recorded()
    curve = measure(session, {"x": np.ones((3, 5), np.float32)}, "batch", (1, 2, 8), seconds=10.0, most=4)
    assert [point.batch for point in curve] == [1, 2, 8]
    assert session.ran == [(1, 5), (2, 5), (8, 5)] * 5
    assert all(point.seconds > 0 for point in curve)
