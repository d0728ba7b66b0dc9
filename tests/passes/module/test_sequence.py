from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from nets import Mlp, Task, outputs_of, seeded

from enginery.errors import PassError
from enginery.passes.base import PassResult
from enginery.passes.module import module_passes, run_module_passes
from enginery.passes.spec import parse_pass


def parsed(*texts):
    return [parse_pass(text, module_passes()) for text in texts]


@dataclass(frozen=True)
class Break:
    name: ClassVar[str] = "break"
    how: str = "shape"

    def apply(self, module, context):
        if self.how == "shape":
            return torch.nn.Sequential(Wrapped(module), torch.nn.Linear(4, 3)), PassResult(changed=1)
        if self.how == "nan":
            with torch.no_grad():
                module.last.bias.fill_(float("nan"))
        if self.how == "crash":
            module.second = torch.nn.Linear(5, 5)
        return module, PassResult(changed=1)


class Wrapped(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_records_figures_and_metric_of_every_step():
    task, heard = Task("mlp"), []
    module, records = run_module_passes(
        seeded(Mlp),
        parsed("recover{epochs=2,lr=0.01,batch=32}", "prune-weights{ratio=0.5}"),
        task.context(),
        started=heard.append,
    )
    first, second = records
    assert heard == [record.text for record in records]
    assert first.metric_before < first.metric_after == second.metric_before
    assert second.metric_after == task.accuracy(module)
    assert first.before.parameters == sum(p.numel() for p in module.parameters())
    assert first.before.macs == 16 * 32 + 32 * 32 + 32 * 4
    assert second.after.nonzero < second.before.nonzero
    assert second.to_json()["after"]["macs"] == second.before.macs


def test_masks_become_plain_parameters_at_the_end():
    module, _ = run_module_passes(seeded(Mlp), parsed("prune-weights{ratio=0.5}"), Task("mlp").context(metric=None))
    assert set(module.state_dict()) == set(seeded(Mlp).state_dict())
    assert float((module.second.weight == 0).float().mean()) > 0.3


def test_without_passes_the_module_stays():
    task = Task("mlp")
    module, records = run_module_passes(seeded(Mlp), [], task.context())
    assert records == ()
    assert (outputs_of(module, task.x) == outputs_of(seeded(Mlp), task.x)).all()


@pytest.mark.parametrize(
    ("how", "message"), [("nan", "holds NaN or Inf"), ("crash", "no longer runs"), ("shape", "no longer runs")]
)
def test_a_pass_that_breaks_the_module_is_named_with_those_before_it(how, message):
    passes = [*parsed("prune-n-m"), Break(how)]
    with pytest.raises(PassError, match=message) as caught:
        run_module_passes(seeded(Mlp), passes, Task("mlp").context())
    assert "module pass break" in str(caught.value)
    assert "passes before it: prune-n-m" in str(caught.value)


def test_outputs_of_another_shape_are_refused():
    @dataclass(frozen=True)
    class Narrow:
        name: ClassVar[str] = "narrow"

        def apply(self, module, context):
            module.last = torch.nn.Linear(32, 3)
            return module, PassResult(changed=1)

    with pytest.raises(PassError, match=r"outputs changed from .*\(2, 4\).* to .*\(2, 3\)"):
        run_module_passes(seeded(Mlp), [Narrow()], Task("mlp").context())
