"""Recipes with module passes, from the file to the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_recipes import Recorder, data, run_build, stages_run, weights, write_module_recipe, write_recipe

from enginery.errors import GateRefusedError, PassError, SourceError, UsageError
from enginery.pipeline.bundle import Bundle

STUDENT = """

def student():
    net = Net()
    net.first, net.second = nn.Linear(32, 16), nn.Linear(16, 4)
    return net
"""

EXACT = """

def build():
    import pathlib
    import numpy
    given = numpy.load(pathlib.Path(__file__).parent / "exact.npz")
    net = Net()
    with torch.no_grad():
        for layer, number in ((net.first, 1), (net.second, 2)):
            layer.weight.copy_(torch.from_numpy(given[f"w{number}"].T))
            layer.bias.copy_(torch.from_numpy(given[f"b{number}"]))
    return net
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(*passes: str, extra: str = "", **changes: Any) -> Path:
        from tiny_recipes import MODULE

        recipe = write_module_recipe(
            tmp_path / "recipe",
            MODULE + extra,
            module_passes=list(passes),
            **{
                "metric": {"name": "top1", "max_drop": 0.02},
                "data": {
                    "training": {"npz": "training.npz", "batch": 16},
                    "calibration": {"npz": "calibration.npz"},
                    "evaluation": {"npz": "evaluation.npz"},
                },
                **changes,
            },
        )
        taught = data(256, 7, weights())
        np.savez(tmp_path / "recipe" / "training.npz", x=taught["x"], labels=taught["labels"])
        return recipe

    return make


def elements(bundle: Path) -> int:
    model = onnx.load(bundle / "engine" / "model.onnx")
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def compress_record(bundle: Path) -> dict[str, Any]:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (record,) = (stage["record"] for stage in manifest["stages"] if stage["stage"] == "compress")
    return record["compress"]


def test_a_pruned_and_recovered_model_ships_smaller_with_each_step_on_record(write: Any, tmp_path: Path) -> None:
    pruned = write("prune-channels{ratio=0.5}", "recover{epochs=3,lr=0.01}")
    result = run_build(pruned, tmp_path / "build")
    assert elements(result.bundle) == 32 * 32 + 32 + 32 * 4 + 4
    first, second = compress_record(result.bundle)["passes"]
    assert (first["before"]["parameters"], first["after"]["parameters"]) == (2372, 1188)
    assert second["after"]["macs"] == 32 * 32 + 32 * 4
    assert second["metric_after"] > first["metric_after"]
    assert "seconds" not in second
    report = json.loads((result.bundle / "report.json").read_text())
    assert [effect["spec"] for effect in report["passes"][:2]] == [first["pass"], second["pass"]]
    steps = report["compression"]
    assert [step["step"] for step in steps] == ["original", first["pass"], second["pass"], "onnxruntime-cpu, fp32"]
    assert [step["parameters"] for step in steps] == [2372, 1188, 1188, None]
    assert [step["metric"] for step in steps[:3]] == [
        first["metric_before"], first["metric_after"], second["metric_after"]
    ]  # fmt: skip
    assert steps[-1]["metric"] == pytest.approx(second["metric_after"])
    assert steps[-1]["bytes"] == report["sizes"]["engine"]
    assert report["sizes"]["original"] == 4 * 2372
    gate = next(gate for gate in result.gates if gate.gate == "metric")
    assert f"original {first['metric_before']:.5g}" in gate.words


@pytest.mark.slow
def test_prune_distil_and_int8_in_one_recipe(write: Any, tmp_path: Path) -> None:
    recipe = write("prune-channels{ratio=0.5}", "distil{epochs=2,alpha=0.5,lr=0.01}", precision="int8")
    result = run_build(recipe, tmp_path / "build")
    assert result.precision == "int8"
    model = onnx.load(result.bundle / "engine" / "model.onnx")
    assert any(t.data_type == onnx.TensorProto.INT8 and list(t.dims) == [32, 32] for t in model.graph.initializer)


@pytest.mark.slow
def test_training_for_int8_gives_the_same_qdq_form_as_without(write: Any, tmp_path: Path) -> None:
    """The same nodes with the same wiring, remedies apart, which measurements choose; the weights are other ones."""
    forms: list[list[tuple[str, list[str], list[str]]]] = []
    weights_of: list[bytes] = []
    for index, option in enumerate(("none", "int8")):
        recipe = write(
            f"recover{{epochs=2,lr=0.01,keep=last,quantize={option}}}", precision={"mode": "int8", "passes": []}
        )
        model = onnx.load(run_build(recipe, tmp_path / str(index)).bundle / "engine" / "model.onnx")
        forms.append([(node.op_type, list(node.input), list(node.output)) for node in model.graph.node])
        weights_of.append(b"".join(t.raw_data for t in model.graph.initializer))
    assert {"QuantizeLinear", "DequantizeLinear"} <= {kind for kind, _, _ in forms[1]}
    assert forms[0] == forms[1]
    assert weights_of[0] != weights_of[1]


@pytest.mark.slow
def test_a_named_student_takes_the_originals_place(write: Any, tmp_path: Path) -> None:
    recipe = write("distil{student=net.py:student,epochs=3,alpha=0.1,lr=0.01}", extra=STUDENT)
    result = run_build(recipe, tmp_path / "build")
    assert elements(result.bundle) == 32 * 16 + 16 + 16 * 4 + 4


@pytest.mark.slow
def test_the_second_build_trains_nothing_and_two_builds_agree(write: Any, tmp_path: Path) -> None:
    recipe = write("prune-weights{ratio=0.5}", "recover{epochs=2}")
    first = run_build(recipe, tmp_path / "one")
    events = Recorder()
    assert run_build(recipe, tmp_path / "one", events).reused
    assert "compress" in events.kept
    second = run_build(recipe, tmp_path / "two")
    assert (first.bundle / "manifest.json").read_bytes() == (second.bundle / "manifest.json").read_bytes()


@pytest.mark.slow
def test_a_training_by_the_clock_is_not_run_again_for_a_stage_that_was_lost(write: Any, tmp_path: Path) -> None:
    recipe = write("recover{minutes=0.005}")
    first = run_build(recipe, tmp_path / "build")
    results = tmp_path / "build" / ".store" / "results"
    for entry in results.iterdir():
        if json.loads((entry / "result.json").read_text())["stage"] == "export":
            shutil.rmtree(entry)
    shutil.rmtree(first.bundle)
    second = run_build(recipe, tmp_path / "build")
    assert (second.bundle / "engine" / "model.onnx").exists()


def compress_again(recipe: Path, output: Path) -> str:
    from enginery.pipeline.events import Events
    from enginery.pipeline.line import Line
    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.store import Store

    result = Line(load_recipe(str(recipe)), Store.beside(output), Events()).compress
    assert result is not None
    return result.json("compress.json")["weights_digest"]


def test_other_training_data_or_another_student_is_trained_on_anew(write: Any, tmp_path: Path) -> None:
    recipe = write("recover{epochs=1}")
    one = compress_again(recipe, tmp_path / "build")
    taught = data(256, 8, weights())
    np.savez(tmp_path / "recipe" / "training.npz", x=taught["x"], labels=taught["labels"])
    assert compress_again(recipe, tmp_path / "build") != one

    recipe = write("distil{student=other.py:make,epochs=1,alpha=1}", extra="")
    other = tmp_path / "recipe" / "other.py"
    source = "from net import Net\n\n\ndef make():\n    return Net()\n"
    other.write_text(source)
    one = compress_again(recipe, tmp_path / "build")
    other.write_text(source.replace("return Net()", "net = Net()\n    net.first.bias.data.zero_()\n    return net"))
    assert compress_again(recipe, tmp_path / "build") != one


@pytest.mark.slow
def test_a_model_that_lost_too_much_is_refused_by_the_metric(write: Any, tmp_path: Path) -> None:
    recipe = write("prune-weights{ratio=0.9}", extra=EXACT)
    np.savez(tmp_path / "recipe" / "exact.npz", **weights())
    with pytest.raises(GateRefusedError, match=r"Gate metric refused tiny .* original 1, engine 0\.\d+, drop"):
        run_build(recipe, tmp_path / "build")


@pytest.mark.slow
def test_without_a_metric_nothing_ships(write: Any, tmp_path: Path) -> None:
    with pytest.raises(GateRefusedError, match="module passes change the model's answers"):
        run_build(write("prune-n-m", metric=None), tmp_path / "build")


@pytest.mark.parametrize(
    ("passes", "error", "message"),
    [
        (["prune-everything"], UsageError, "There is no pass 'prune-everything'"),
        (["prune-channels"], UsageError, "either ratio or macs"),
        (["prune-weights{ratio=0.5,layers=nothing}"], PassError, "prune-weights.* failed: .* available: first, second"),
        (["distil{student=net.py:absent,epochs=1}"], SourceError, "no callable 'absent'"),
    ],
)
def test_what_cannot_be_done_is_said(
    write: Any, tmp_path: Path, passes: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises((error, PassError), match=message):
        run_build(write(*passes), tmp_path / "build")


def test_training_without_training_data_is_refused(write: Any, tmp_path: Path) -> None:
    recipe = write("recover{epochs=1}", data={"evaluation": {"npz": "evaluation.npz"}})
    with pytest.raises(PassError, match="name `data: training:` in the recipe"):
        run_build(recipe, tmp_path / "build")


def test_an_onnx_source_has_no_module(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", module_passes=["prune-n-m"], metric={"name": "top1", "max_drop": 1})
    with pytest.raises(SourceError, match="the source is an ONNX file"):
        run_build(recipe, tmp_path / "build")


def test_module_passes_run_before_the_export(tmp_path: Path) -> None:
    metric = {"name": "top1", "max_drop": 1.0}
    recipe = write_module_recipe(tmp_path / "recipe", module_passes=["prune-weights{ratio=0.5}"], metric=metric, seed=1)
    events = Recorder()
    bundle = Bundle.open(run_build(recipe, tmp_path / "build", events).bundle)
    assert {"compress", "reference (original)"} <= set(events.ran)
    record = next(stage for stage in bundle.manifest.stages if stage.stage == "compress").record["compress"]
    assert record["passes"][0]["pass"].startswith("prune-weights")
    assert record["passes"][0]["changed"] > 0
    # The engine answers like the pruned module; half of the weights that it holds are zero.
    verdicts = {gate.gate: gate.verdict.value for gate in bundle.manifest.gates}
    assert verdicts["accuracy-float"] == verdicts["metric"] == "passed"
    assert _zeros(bundle.path / "engine" / "model.onnx") > 0.4
    assert stages_run(recipe, tmp_path / "build") == {}


def _zeros(path: Path) -> float:
    import onnx
    from onnx import numpy_helper

    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    weight = max(arrays, key=lambda array: array.size)
    return float((weight == 0).mean())


def test_module_passes_need_a_metric(tmp_path: Path) -> None:
    recipe = write_module_recipe(tmp_path / "recipe", module_passes=["prune-weights{ratio=0.5}"])
    with pytest.raises(GateRefusedError, match=r"Gate metric refused .* name a `metric` that bounds the loss"):
        run_build(recipe, tmp_path / "build")


def test_module_passes_cannot_work_on_an_onnx_file(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", module_passes=["prune-weights{ratio=0.5}"])
    with pytest.raises(SourceError, match=r"work on an nn\.Module; the source is an ONNX file"):
        run_build(recipe, tmp_path / "build")
