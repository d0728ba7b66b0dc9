"""Listed in docs/gpu.md. A plan must run on the device at hand: RTX has none for compute capability 9.0."""

import engine_models as models
import numpy as np
import pytest
from rtx import build_model

from enginery.engines import get_engine
from enginery.engines.onnxruntime import open_model
from enginery.errors import InputError, UntrustedSourceError

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def runnable():
    if reason := get_engine("tensorrt-rtx").cannot_run():
        pytest.skip(reason)


@pytest.fixture
def session(tmp_path):
    engine = get_engine("tensorrt-rtx")
    artifact = build_model(
        models.linear(), tmp_path, models.spec(profiles=[{"batch": [1, 1, 4]}, {"batch": [1, 16, 32]}])
    )
    with engine.load(artifact, models.SPEC) as session:
        yield session


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_answers_like_the_graph(session, batch):
    feeds = models.inputs(batch)
    np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-4, atol=1e-4)


def test_graphs_are_replayed_and_dropped(session):
    for batch in (4, 4, 4, 8, 8, 32, 4, 4):
        for seed in range(3):
            feeds = models.inputs(batch, seed)
            np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-4, atol=1e-4)
    assert session.device_milliseconds > 0


def test_results_outlive_the_next_run(session):
    first = session.run(models.inputs(2, 0))["y"]
    kept = first.copy()
    session.run(models.inputs(2, 1))
    np.testing.assert_array_equal(first, kept)


def test_a_strangers_plan_is_not_loaded(tmp_path, monkeypatch):
    artifact = build_model(models.linear(), tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-user"))
    with pytest.raises(UntrustedSourceError):
        get_engine("tensorrt-rtx").load(artifact, models.SPEC)


def test_sizes_outside_every_profile_are_refused_with_the_profiles(session):
    with pytest.raises(InputError, match=r"batch"):
        session.run(models.inputs(64))


def test_the_inspector_lists_the_layers(session):
    kernels = session.kernels()
    assert kernels["heavy"]["float"] >= 1
    assert sum(kernels["counts"].values()) >= len(kernels["nodes"]) > 0


def test_int8_answers_like_the_graph_run_literally(tmp_path):
    artifact = build_model(models.quantized_linear(), tmp_path)
    literal = open_model(models.save(models.quantized_linear(), tmp_path))
    with get_engine("tensorrt-rtx").load(artifact, models.SPEC) as session:
        assert session.kernels()["heavy"]["integer"] == 1
        feeds = models.inputs(5)
        np.testing.assert_allclose(session.run(feeds)["y"], literal(feeds)["y"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("option", ["refit", "strip_plan", "weight_streaming"])
def test_refitted_stripped_and_streamed_plans_answer_too(option, tmp_path):
    artifact = build_model(models.linear(), tmp_path, models.spec(**{option: True}))
    with get_engine("tensorrt-rtx").load(artifact, models.SPEC) as session:
        feeds = models.inputs(3)
        np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-4, atol=1e-4)
