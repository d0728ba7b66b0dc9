import random

import numpy as np
import projects
import pytest
import torch
from safetensors.torch import save_file

from enginery.errors import RecipeError, SourceError
from enginery.pipeline.source.digest import file_digest


def pinned(path) -> dict[str, str]:
    return {"path": path.name, "sha256": file_digest(path)}


def state(width: int = 4) -> dict[str, torch.Tensor]:
    return {"linear.weight": torch.full((width, 3), 2.0), "linear.bias": torch.arange(float(width))}


@pytest.fixture
def net(tmp_path):
    return projects.write(tmp_path, model=projects.NET)


def test_a_module_in_eval_mode(net):
    original = projects.load(net)
    assert original.kind == "factory"
    assert original.module is not None
    assert not original.module.training
    assert original.onnx is None


def test_options_are_the_factorys_arguments(net):
    assert projects.load(net, options={"width": 9}).module.linear.out_features == 9


def test_the_seed_decides_random_weights_and_the_callers_generators_stay(net):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    digests = [projects.load(net, seed=seed).weights_digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_weights_are_loaded_into_the_module(net, kind):
    path = net / "weights.bin"
    if kind == "safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=kind == "zip")
    original = projects.load(net, weights=pinned(path))
    assert torch.equal(original.module.linear.weight, state()["linear.weight"])
    assert original.weights_digest == file_digest(path)
    assert original.provenance["weights"]["sha256"] == file_digest(path)


def test_a_factory_with_a_parameter_weights_loads_them_itself(tmp_path):
    projects.write(
        tmp_path,
        model=projects.NET
        + """
    def load(weights):
        net = Net()
        net.load_state_dict({k.removeprefix("module."): v for k, v in weights["state_dict"].items()})
        return net
""",
    )
    path = tmp_path / "checkpoint.th"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state().items()}, "best": 0.9}, path)
    original = projects.load(tmp_path, "model.py:load", weights=pinned(path))
    assert torch.equal(original.module.linear.bias, state()["linear.bias"])


def test_a_checkpoint_for_a_factory_without_that_parameter_says_what_to_do(net):
    path = net / "checkpoint.th"
    torch.save({"state_dict": state()}, path)
    with pytest.raises(SourceError, match=r"keys \['state_dict'\], not a plain state dict.*parameter `weights`"):
        projects.load(net, weights=pinned(path))


def test_names_that_do_not_fit_are_listed(net):
    path = net / "weights.safetensors"
    save_file({f"module.{name}": value for name, value in state().items()}, path)
    with pytest.raises(SourceError, match=r"does not fit the module.*module\.linear\.weight") as caught:
        projects.load(net, weights=pinned(path))
    assert "`module.` prefix" in str(caught.value)


def test_other_weights_than_the_pinned_ones_are_refused_before_they_are_read(net):
    path = net / "weights.safetensors"
    path.write_bytes(b"not weights at all")
    with pytest.raises(SourceError, match=r"have sha256 \w+; the recipe pins 0000"):
        projects.load(net, weights={"path": path.name, "sha256": "0" * 64})


def test_absent_weights_are_named(net):
    with pytest.raises(SourceError, match=r"There is no weights file .*absent"):
        projects.load(net, weights={"path": "absent", "sha256": "0" * 64})


@pytest.mark.parametrize(
    ("returned", "name"), [("Net", "type"), ("Net().state_dict()", "OrderedDict"), ("None", "NoneType")]
)
def test_a_factory_that_returns_something_else(tmp_path, returned, name):
    projects.write(tmp_path, model=projects.NET + f"\n    def other():\n        return {returned}\n")
    with pytest.raises(SourceError, match=f"returned '{name}'; expected a torch.nn.Module"):
        projects.load(tmp_path, "model.py:other")


def test_a_factory_that_raises(tmp_path):
    projects.write(tmp_path, model="def build():\n    raise FileNotFoundError('vocab.txt')\n")
    with pytest.raises(SourceError, match=r"FileNotFoundError: vocab\.txt \(model\.py, line 2: raise"):
        projects.load(tmp_path)


def test_an_unknown_option_is_a_fault_of_the_recipe(net):
    with pytest.raises(RecipeError, match=r"takes \(width=4\)"):
        projects.load(net, options={"depth": 1})


def test_the_provenance_names_no_place_of_this_machine(net):
    path = net / "weights.safetensors"
    save_file(state(), path)
    original = projects.load(net, weights=pinned(path))
    assert str(net) not in repr(original.provenance)
    assert original.provenance["code"] == {"model.py": file_digest(net / "model.py")}


def test_a_research_repository_is_exported_from_inside_it(tmp_path, monkeypatch):
    """Its packages are called like ours, and its forward imports one of them lazily."""
    net = """
        import torch

        class Net(torch.nn.Module):
            def __init__(self, factor):
                super().__init__()
                self.factor = torch.nn.Parameter(torch.tensor(factor))

            def forward(self, x):
                from pipeline.late import double
                return double(x) * self.factor
    """
    files = {
        "engines/__init__.py": "def make():\n    return 2.0\n",
        "models/__init__.py": "",
        "models/net.py": net,
        "pipeline/__init__.py": "",
        "pipeline/late.py": "def double(x):\n    return 2 * x\n",
    }
    model = "from engines import make\nfrom models.net import Net\n\ndef build():\n    return Net(make())\n"
    projects.write(tmp_path, files, model=model)
    monkeypatch.chdir(tmp_path)
    module = projects.load(tmp_path).module
    assert module(torch.ones(1)).item() == 4.0
    program = torch.export.export(module, (torch.ones(3),))
    assert torch.equal(program.module()(torch.ones(3)), torch.full((3,), 4.0))
