import dataclasses
import subprocess
import sys

import pytest

from enginery.errors import UsageError
from enginery.passes.module import module_passes
from enginery.passes.spec import format_pass, parse_pass

EXAMPLES = [
    "merge-linear",
    "remove-redundant-channels{observe=true}",
    "separate-convolutions{multiplier=2,aware=false}",
    "convert-pointwise{to=conv}",
    "drop-layers{keep=3,choose=influence}",
    "prune-heads{ratio=0.25}",
    "prune-channels{ratio=0.5}",
    "prune-channels{macs=0.5,criterion=taylor,round_to=4}",
    "factorize{energy=0.9}",
    "factorize{budget=0.5,by=sensitivity}",
    "factorize{budget=0.5,aware=false,layers=.*dense}",
    "prune-weights{ratio=0.9,criterion=lamp}",
    "prune-weights{epochs=3,ratio=0.9,prune=cubic}",
    "prune-n-m",
    "recover{epochs=2,quantize=int8}",
    "recover{minutes=1.0,ema=0.99,sparsity=group-lasso}",
    'distil{epochs=2,student=student.py:make,hidden=["a.b->c"]}',
    'distil{epochs=2,attention=["a.*.self->b.*.self"],mapping=last}',
    "share-weights{codes=16}",
    "tie-weights",
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_text_round_trips(text):
    registry = module_passes()
    parsed = parse_pass(text, registry)
    assert parse_pass(format_pass(parsed), registry) == parsed


def test_names_are_kebab_case_and_every_pass_has_an_example():
    registry = module_passes()
    assert set(registry) == {text.partition("{")[0] for text in EXAMPLES}
    assert all(name == kind.name and name.replace("-", "").isalnum() for name, kind in registry.items())


def test_every_pass_is_a_frozen_dataclass_with_a_numbered_contract():
    for kind in module_passes().values():
        assert kind.__dataclass_params__.frozen
        assert dataclasses.is_dataclass(kind)
        assert "    1. " in kind.__doc__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune-channels", "either ratio or macs"),
        ("prune-channels{ratio=0.5,macs=0.5}", "either ratio or macs"),
        ("prune-channels{ratio=1.5}", "ratio=1.5 is out of range"),
        ("prune-channels{ratio=0.5,round_to=0}", "round_to=0"),
        ("prune-heads{ratio=0}", "ratio=0.0"),
        ("prune-weights", "either ratio or threshold"),
        ("prune-weights{ratio=1}", "ratio=1.0"),
        ("prune-weights{threshold=-1}", "threshold=-1.0"),
        ("prune-weights{ratio=0.5,prune=cubic}", "give epochs or minutes"),
        ("prune-weights{threshold=0.5,prune=cubic,epochs=1}", "needs ratio"),
        ("prune-weights{ratio=0.5,epochs=1}", "does not train"),
        ("prune-n-m{n=4}", "0 < n < m"),
        ("factorize", "exactly one of"),
        ("factorize{rank=2,energy=0.5}", "exactly one of"),
        ("factorize{rank=0}", "rank=0"),
        ("factorize{energy=1.5}", "energy=1.5"),
        ("factorize{rank=1,samples=0}", "samples=0"),
        ("factorize{rank=1,by=sensitivity}", "give budget"),
        ("recover{epochs=1,quantize=int8,bits=9}", "bits=9"),
        ("separate-convolutions{multiplier=0}", "multiplier=0"),
        ("remove-redundant-channels{samples=0}", "samples=0"),
        ("drop-layers{keep=0}", "keep=0"),
        ("share-weights{codes=1}", "codes=1"),
        ("distil", "give epochs or minutes"),
        ("distil{epochs=1,alpha=0}", "alpha=0.0"),
        ("distil{epochs=1,temperature=0}", "temperature=0.0"),
        ("distil{epochs=1,hidden=[a]}", "hidden has 'a'; expected teacher.layer->student.layer"),
        ("distil{epochs=1,attention=[a]}", "attention has 'a'; expected teacher.layer->student.layer"),
    ],
)
def test_wrong_options_say_what_is_expected(text, message):
    with pytest.raises(UsageError, match=message):
        parse_pass(text, module_passes())


def test_listing_the_passes_does_not_import_torch():
    code = "import sys, enginery.passes.module as m; m.module_passes(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
