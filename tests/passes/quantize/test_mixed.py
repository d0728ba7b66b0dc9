"""The search for the nodes that stay in float."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from enginery.passes.quantize import Sensitivity, search_mixed_precision
from enginery.passes.quantize.sensitivity import NodeSensitivity

NAMES = [f"n{index}" for index in range(8)]
RANKED = Sensitivity(tuple(NodeSensitivity(name, 10.0, 30.0 - index) for index, name in enumerate(NAMES)), 5.0)


class Asked:
    """Accepts what `good` does, and remembers what it was asked."""

    def __init__(self, good: Callable[[set[str]], bool]) -> None:
        self.good = good
        self.sets: list[frozenset[str]] = []

    def __call__(self, floating: tuple[str, ...]) -> bool:
        self.sets.append(frozenset(floating))
        return self.good(set(floating))


@pytest.mark.parametrize("needed", range(1, 9))
def test_the_least_number_in_the_order_of_sensitivity_is_found(needed: int) -> None:
    asked = Asked(lambda floating: set(NAMES[:needed]) <= floating)
    cheapest = search_mixed_precision(RANKED, asked).accepted[0]
    assert set(cheapest.floating) == set(NAMES[:needed])


def test_nothing_is_searched_where_all_integers_are_good_enough() -> None:
    asked = Asked(lambda _: True)
    assert [trial.floating for trial in search_mixed_precision(RANKED, asked).accepted] == [()]
    assert len(asked.sets) == 1


def test_a_search_without_success_ends_with_all_nodes_in_float() -> None:
    asked = Asked(lambda _: False)
    found = search_mixed_precision(RANKED, asked)
    assert found.accepted == ()
    assert [len(trial.floating) for trial in found.trials] == [0, 8]


def test_a_costly_node_is_avoided_where_cheaper_ones_do_as_well() -> None:
    costs = {**dict.fromkeys(NAMES, 0.01), "n0": 0.9}
    asked = Asked(lambda floating: "n0" in floating or {"n1", "n2", "n3"} <= floating)
    cheapest = search_mixed_precision(RANKED, asked, costs=costs).accepted[0]
    assert set(cheapest.floating) == {"n1", "n2", "n3"}
    assert cheapest.cost == pytest.approx(0.03)


def test_nodes_that_are_not_needed_go_back_to_integers_the_costliest_first() -> None:
    costs = {name: 1.0 + index for index, name in enumerate(NAMES)}
    asked = Asked(lambda floating: {"n1", "n5"} <= floating)
    found = search_mixed_precision(RANKED, asked, costs=costs)
    assert set(found.accepted[0].floating) == {"n1", "n5"}


def test_the_number_of_returns_is_bounded_and_no_set_is_asked_about_twice() -> None:
    asked = Asked(lambda floating: set(NAMES[:6]) <= floating or len(floating) >= 6)
    search_mixed_precision(RANKED, asked, most_returns=2)
    assert len(asked.sets) == len(set(asked.sets)) <= 2 + 2 * 3 + 2
