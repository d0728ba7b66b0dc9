"""Advice as text: what the lines say that the command prints."""

from enginery.passes.module.advise import Advice, Budget, Effect, Proposal, Untried
from enginery.pipeline.report.advice import advice_lines
from enginery.pipeline.report.advice_page import advice_page

PRUNED = Effect("stem", "prune", 0.25, 0.5, 0.5, 0.5, None, coupled=("skip", "join"))
ADVICE = Advice(
    0.9,
    "metric",
    (PRUNED,),
    (
        *(Untried(f"block{i}", "factorize", "it is a grouped convolution") for i in range(8)),
        Untried("", "prune", "needs torch-pruning"),
    ),
    (
        Proposal((), True, 0.001, 1.0, 1.0, 0.4, True),
        Proposal(("prune-channels{macs=0.8}", "recover{epochs=5}"), True, 0.2, 0.8, 0.7, 0.3, False),
    ),
)
BUDGET = Budget(latency=0.5, max_drop=0.005)


def test_layers_that_shrink_together_are_counted_and_explained():
    text = "\n".join(advice_lines(ADVICE, BUDGET))
    assert "stem +2  prune         0.2500" in text
    assert "+n after a layer" in text
    assert "+n" not in "\n".join(advice_lines(Advice(0.9, "metric", (), (), ()), BUDGET))


def test_ways_that_are_not_open_are_gathered_by_reason():
    lines = list(advice_lines(ADVICE, BUDGET))
    start = lines.index("Not open:")
    assert lines[start + 1 : start + 3] == [
        "  factorize block0, block1, block2, block3, block4, block5 and 2 more: it is a grouped convolution",
        "  prune: needs torch-pruning",
    ]


def test_a_proposal_is_lines_of_a_recipe():
    text = "\n".join(advice_lines(ADVICE, BUDGET))
    assert "within the budget as it is\nprecision: int8\n" in text
    assert "module_passes:\n  - prune-channels{macs=0.8}\n  - recover{epochs=5}\nprecision: int8" in text
    assert "data: training:" not in text


def test_the_page_says_the_same():
    page = advice_page(ADVICE, BUDGET, "net")
    for text in ("stem +2 prune", "+n after a layer", "prune: needs torch-pruning", "<pre>precision: int8</pre>"):
        assert text in page
