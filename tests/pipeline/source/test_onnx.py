import engine_models
import pytest

from enginery.errors import InvalidModelError, SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source import load_original, source_digest


def load(folder, **source):
    return load_original(Source(onnx="model.onnx", **source), folder, trust=False, seed=0)


@pytest.mark.parametrize("external", [False, True])
def test_a_file_and_its_external_data(tmp_path, external):
    path = engine_models.save(engine_models.linear(), tmp_path, external=external)
    original = load(tmp_path)
    assert original.onnx == path
    assert original.module is None
    assert len(original.provenance["files"]) == (2 if external else 1)


def test_a_change_in_external_data_changes_the_digest(tmp_path):
    engine_models.save(engine_models.linear(), tmp_path, external=True)
    source = Source(onnx="model.onnx")
    before = source_digest(source, tmp_path), load(tmp_path).weights_digest
    data = next(path for path in tmp_path.iterdir() if path.suffix != ".onnx")
    raw = bytearray(data.read_bytes())
    raw[0] ^= 1
    data.write_bytes(raw)
    assert source_digest(source, tmp_path) != before[0]
    assert load(tmp_path).weights_digest != before[1]


def test_a_damaged_file_is_refused_before_any_runtime_sees_it(tmp_path):
    path = engine_models.save(engine_models.linear(), tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidModelError, match=r"model\.onnx"):
        load(tmp_path)


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    engine_models.save(engine_models.linear(), tmp_path)
    with pytest.raises(SourceError, match="the recipe pins 0000"):
        load(tmp_path, weights={"path": "model.onnx", "sha256": "0" * 64})


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"There is no ONNX file .*model\.onnx"):
        load(tmp_path)
