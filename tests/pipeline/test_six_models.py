"""The main job on six real models: each ends in a bundle that is right, in fp32 and int8, for both kinds of runtime.

Speed is not judged here: other processes share the machine, and a test states no times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_recipes import run_build

from enginery.engines import get_engine
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.session import open_session
from enginery.pipeline.gates import refusals
from enginery.pipeline.npz import read_npz

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[1] / "recipes"
MODELS = {
    "minilm": "minilm",
    "digits": "digits",
    "mobilenet": RECIPES / "mobilenet",
    "squeezenet": RECIPES / "squeezenet",
    "resnet20": RECIPES / "cifar" / "resnet20.yaml",
    "kws": RECIPES / "kws",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all builds, so that export and reference are made once for each model."""
    return tmp_path_factory.mktemp("six")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_an_engine_for_the_cpu(shared_data: Path, output: Path, name: str, precision: str) -> None:
    result = run_build(MODELS[name], output, target="onnxruntime-cpu", precision=precision, allow=["speed"])
    assert result.validated
    assert not refusals(result.gates)
    verify_bundle(result.bundle)
    bundle = Bundle.open(result.bundle)
    with open_session(result.bundle) as session:
        for case in bundle.manifest.golden:
            assert case.outputs is not None
            found = session.run(read_npz(result.bundle / case.inputs))
            for key, wanted in read_npz(result.bundle / case.outputs).items():
                np.testing.assert_allclose(
                    found[key], wanted, rtol=0, atol=2e-5 * max(1.0, float(np.abs(wanted).max()))
                )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_for_tensorrt_rtx(shared_data: Path, output: Path, name: str, precision: str) -> None:
    engine = get_engine("tensorrt-rtx")
    if reason := engine.cannot_build():
        pytest.skip(reason)
    result = run_build(MODELS[name], output, target="tensorrt-rtx", precision=precision, allow=["speed"])
    assert result.validated == (engine.cannot_run() is None)
    assert not refusals(result.gates)
    verify_bundle(result.bundle)


def test_a_second_build_gives_the_same_bytes(shared_data: Path, output: Path, tmp_path: Path) -> None:
    first = run_build(MODELS["kws"], output, precision="int8", allow=["speed"]).bundle
    second = run_build(MODELS["kws"], tmp_path, precision="int8", allow=["speed"]).bundle
    for name in ("engine/model.onnx", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
