import pytest
import torch
from nets import Mlp, seeded

from enginery.errors import PassError, UsageError
from enginery.passes.module.training.losses import penalty, task_loss
from enginery.passes.module.training.options import Training


def value(output, labels, *, resolve=None, **options):
    loss = task_loss(Training(epochs=1, **options), resolve)
    return float(loss({}, {"logits": output}, labels))


def test_integer_labels_mean_cross_entropy_and_real_ones_squared_error():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    assert value(logits, torch.tensor([0, 1])) == pytest.approx(float(expected))
    assert value(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0])) == pytest.approx(5.0)


def test_token_labels_are_scored_at_every_position():
    logits = torch.randn(2, 3, 5)
    labels = torch.randint(0, 5, (2, 3))
    expected = torch.nn.functional.cross_entropy(logits.reshape(6, 5), labels.reshape(6))
    assert value(logits, labels) == pytest.approx(float(expected))


def test_a_function_of_the_user_is_resolved_and_called_with_names():
    def mean_of_logits(outputs, labels):
        return outputs["logits"].mean() + labels.sum()

    found = value(torch.ones(2), torch.ones(2), loss="my.py:f", resolve=lambda text: {"my.py:f": mean_of_logits}[text])
    assert found == 3.0


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (None, {}, PassError, "has no labels"),
        (torch.zeros(2), {"loss": "cross-entropy"}, PassError, "needs integer labels"),
        (torch.zeros(2, 3), {"loss": "mse"}, PassError, r"\(2, 3\) do not fit .* \(2, 2\)"),
        (None, {"loss": "hinge"}, UsageError, "loss='hinge' is unknown"),
        (None, {"loss": "my.py:f"}, UsageError, "nothing to resolve it with"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels, options, error, message):
    with pytest.raises(error, match=message):
        value(torch.zeros(2, 2), labels, **options)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("l1", lambda w: w.abs().sum()), ("l2", lambda w: w.square().sum() / 2), ("group-lasso", None)],
)
def test_penalties_are_the_norms_they_name(kind, expected):
    module = seeded(Mlp)
    weights = [p for p in module.parameters() if p.dim() > 1]
    expected = expected or (lambda w: w.norm(dim=1).sum() * w.shape[1] ** 0.5)
    options = Training(epochs=1, sparsity=kind, strength=0.5)
    assert float(penalty(module, options).detach()) == pytest.approx(
        0.5 * sum(float(expected(w).detach()) for w in weights), rel=1e-5
    )
