import torch
from nets import Mlp, Task, export, initializer_elements, outputs_of, seeded

from enginery.passes.module.prune.weights import PruneWeights
from enginery.passes.module.share.duplicates import TieWeights


class Twice(Mlp):
    """Its third weight equals the second."""

    def __init__(self):
        super().__init__()
        self.third = torch.nn.Linear(32, 32)
        with torch.no_grad():
            self.third.weight.copy_(self.second.weight)

    def forward(self, x):
        return self.last(torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x)))))))


def test_equal_tensors_are_stored_once(tmp_path):
    task, module = Task("mlp"), seeded(Twice)
    expected = outputs_of(module, task.x)
    module, result = TieWeights().apply(module, task.context())
    assert result.details["merged"] == {"third.weight": "second.weight"}
    assert module.third.weight is module.second.weight
    assert (outputs_of(module, task.x) == expected).all()
    assert initializer_elements(export(module, task.x[:2], tmp_path / "tied.onnx")) < 2 * 32 * 32 + 16 * 32


def test_ties_of_the_model_are_reported_and_the_second_run_changes_nothing():
    module, _ = TieWeights().apply(seeded(Twice), Task("mlp").context())
    _, result = TieWeights().apply(module, Task("mlp").context())
    assert result.changed == 0
    assert result.details["tied"] == [["second.weight", "third.weight"]]


def test_different_shapes_or_bytes_stay_apart():
    _module, result = TieWeights(least=1).apply(seeded(Mlp), Task("mlp").context())
    assert result.changed == 0
    assert result.details == {"tied": [], "merged": {}}


def test_masked_weights_are_refused():
    module, _ = PruneWeights(ratio=0.5).apply(seeded(Twice), Task("mlp").context())
    _, result = TieWeights().apply(module, Task("mlp").context())
    assert result.changed == 0
    assert "third.weight_orig" in [refusal.node for refusal in result.refusals]
    assert result.refusals[0].reason.startswith("it is masked or holds a codebook")
