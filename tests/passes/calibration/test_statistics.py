"""The statistics file: saved, merged, compared and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quantizable import calibrate, conv_net, images, mlp_block, sequences

from enginery.errors import StatisticsError
from enginery.passes.calibration import Statistics, export_cache, import_cache, make_observer
from enginery.passes.calibration.tensor_statistics import observe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp_block(tmp_path_factory.mktemp("mlp") / "model.onnx")


@pytest.fixture(scope="module")
def statistics(model: Path) -> Statistics:
    return calibrate(model, sequences())


def test_what_is_saved_is_loaded_and_equal_statistics_give_equal_bytes(statistics: Statistics, tmp_path: Path) -> None:
    statistics.save(tmp_path / "a")
    loaded = Statistics.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    for name in ("statistics.json", "statistics.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert loaded.data_digest == statistics.data_digest
    assert loaded.tensors["a.gelu"].histogram == statistics.tensors["a.gelu"].histogram


def test_the_folder_around_them_is_taken_too(statistics: Statistics, tmp_path: Path) -> None:
    statistics.save(tmp_path / "result" / "statistics")
    assert Statistics.load(tmp_path / "result").data_digest == statistics.data_digest


@pytest.mark.parametrize("key", ["arrays_sha256", "tensors", "samples", "masks"])
def test_a_head_without_a_key_is_refused_in_words(statistics: Statistics, tmp_path: Path, key: str) -> None:
    statistics.save(tmp_path)
    head = json.loads((tmp_path / "statistics.json").read_text())
    del head[key]
    (tmp_path / "statistics.json").write_text(json.dumps(head))
    with pytest.raises(StatisticsError, match=rf"is not as a calibration writes it \(KeyError: '{key}'\)"):
        Statistics.load(tmp_path)


def test_a_damaged_or_missing_file_is_refused(statistics: Statistics, tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="holds no readable statistics"):
        Statistics.load(tmp_path / "nowhere")
    statistics.save(tmp_path)
    arrays = tmp_path / "statistics.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StatisticsError, match="does not match its digest"):
        Statistics.load(tmp_path)
    head = json.loads((tmp_path / "statistics.json").read_text())
    (tmp_path / "statistics.json").write_text(json.dumps(head | {"format": 99}))
    with pytest.raises(StatisticsError, match="has format 99"):
        Statistics.load(tmp_path)


def test_workers_merge_in_any_order_to_what_one_run_sees(model: Path, statistics: Statistics, tmp_path: Path) -> None:
    def share(index: int):
        return lambda: (feeds for number, feeds in enumerate(sequences()()) if number % 3 == index)

    parts = [calibrate(model, share(index)) for index in range(3)]
    forward, backward = parts[0].merge(*parts[1:]), parts[2].merge(parts[0], parts[1])
    forward.save(tmp_path / "forward")
    backward.save(tmp_path / "backward")
    arrays = [(tmp_path / order / "statistics.safetensors").read_bytes() for order in ("forward", "backward")]
    assert arrays[0] == arrays[1]
    assert forward.data_digest == statistics.data_digest
    assert not forward.diff(statistics, tolerance=1e-9)
    assert forward.tensors["a.gelu"].histogram == statistics.tensors["a.gelu"].histogram


def test_merging_the_same_data_or_another_graph_is_refused(statistics: Statistics, tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="6 batches are in more than one"):
        statistics.merge(statistics)
    other = calibrate(conv_net(tmp_path / "model.onnx"), images())
    with pytest.raises(StatisticsError, match=r"of graph \w{12} cannot be merged with those of graph \w{12}"):
        statistics.merge(other)


def test_what_any_part_saw_is_true_of_the_whole(statistics: Statistics) -> None:
    other = replace(statistics, batches=("0" * 64,), samples=1)
    for change in ({"random": True}, {"complete": False}):
        for parts in ((statistics, replace(other, **change)), (replace(other, **change), statistics)):
            merged = parts[0].merge(parts[1])
            assert [getattr(merged, name) for name in change] == list(change.values())
    name = next(iter(statistics.tensors))
    bad = replace(other, tensors={**other.tensors, name: replace(other.tensors[name], finite=False)})
    assert not statistics.merge(bad).tensors[name].finite
    assert not bad.merge(statistics).tensors[name].finite
    assert statistics.merge(other).tensors[name].finite


def test_only_the_tensors_that_every_part_saw_are_kept(statistics: Statistics) -> None:
    _, *rest = statistics.tensors
    other = replace(
        statistics,
        batches=("0" * 64,),
        tensors={name: each for name, each in statistics.tensors.items() if name in rest},
    )
    assert set(statistics.merge(other).tensors) == set(rest)


def test_a_difference_names_the_tensors_whose_ranges_moved(model: Path, statistics: Statistics) -> None:
    def louder():
        return ({"x": feeds["x"] * 3} for feeds in sequences()())

    difference = statistics.diff(calibrate(model, louder))
    assert difference
    moved = {change.tensor: change.ratio for change in difference.moved}
    assert moved["x"] == pytest.approx(3)
    assert "a.norm" not in moved  # normalized away
    assert [change.ratio for change in difference.moved] == sorted(moved.values(), reverse=True)
    assert not statistics.diff(statistics)


def test_a_tensorrt_cache_goes_out_and_in(model: Path, statistics: Statistics, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.cache"
    cache.write_text(export_cache(statistics, make_observer("minmax")))
    assert cache.read_text().startswith("TRT-")
    back = import_cache(cache, model).tensors["a.gelu"]
    assert back.high == pytest.approx(max(-statistics.tensors["a.gelu"].low, statistics.tensors["a.gelu"].high))
    assert back.low == -back.high
    with pytest.raises(StatisticsError, match="saw no batches, and hold ranges alone"):
        statistics.merge(import_cache(cache, model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "is no TensorRT calibration cache"),
        ("TRT-1-Entropy\nx: 12", "line 2: given 'x: 12'"),
        ("TRT-1-Entropy\nx: 7fc00000", "is not a finite positive number"),
        ("TRT-1-Entropy\nunknown: 3c010a14", "No tensor of model.onnx"),
    ],
)
def test_a_malformed_cache_is_refused(model: Path, tmp_path: Path, text: str, message: str) -> None:
    cache = tmp_path / "calibration.cache"
    cache.write_text(text)
    with pytest.raises(StatisticsError, match=message):
        import_cache(cache, model)


def test_sums_that_overflow_float32_are_right() -> None:
    """The bias of a mask holds float32's lowest value at every padded position."""
    lowest = float(np.finfo(np.float32).min)
    found = observe(np.full((4, 3), lowest, np.float32))
    assert found is not None
    np.testing.assert_allclose(found.channel_sum, 4 * lowest)
