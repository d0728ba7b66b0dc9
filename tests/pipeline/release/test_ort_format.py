import json

import numpy as np
import pytest
from bundles import make_bundle
from click.testing import CliRunner

from enginery.errors import EngineError, IntegrityError, UsageError
from enginery.pipeline.bundle import file_records, write_sums
from enginery.pipeline.cli.main import cli
from enginery.pipeline.files import pretty_json
from enginery.pipeline.npz import read_npz, write_npz
from enginery.pipeline.release.ort_format import export_ort


def test_the_file_is_in_the_format_and_answers_like_the_engine(pristine, tmp_path):
    import onnxruntime

    done = export_ort(pristine, tmp_path)
    # The format is a flatbuffer with the identifier ORTM behind its first offset.
    assert done.path.read_bytes()[4:8] == b"ORTM"
    assert done.cases == 3
    session = onnxruntime.InferenceSession(str(done.path))
    expected = read_npz(pristine / "golden/opt.outputs.npz")["y"]
    (actual,) = session.run(["y"], read_npz(pristine / "golden/opt.inputs.npz"))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_it_is_the_same_every_time(pristine, tmp_path):
    assert export_ort(pristine, tmp_path / "a").sha256 == export_ort(pristine, tmp_path / "b").sha256


def test_only_the_file_is_left(pristine, tmp_path):
    export_ort(pristine, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.ort"]


def with_golden(bundle, change):
    """Change the golden outputs and make all digests agree."""
    path = bundle / "golden/opt.outputs.npz"
    write_npz(path, change(read_npz(path)))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"] = {name: r.model_dump() for name, r in file_records(bundle, list(manifest["files"])).items()}
    (bundle / "manifest.json").write_text(pretty_json(manifest))
    write_sums(bundle)
    return bundle


def test_a_file_that_answers_otherwise_is_not_delivered(bundle, tmp_path):
    with_golden(bundle, lambda arrays: {"y": arrays["y"] * 1.01})
    with pytest.raises(EngineError, match=r"tiny\.ort does not answer here"):
        export_ort(bundle, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_without_golden_outputs_nothing_is_proved(tmp_path):
    with pytest.raises(EngineError, match="no golden outputs"):
        export_ort(make_bundle(tmp_path / "b", golden=()), tmp_path / "out")


def test_a_quantized_engine_may_round_a_value_otherwise(tmp_path):
    bundle = make_bundle(tmp_path / "b", precision="int8")
    near = with_golden(bundle, lambda arrays: {"y": arrays["y"] * 1.001})
    assert export_ort(near, tmp_path / "out").cases == 3
    far = with_golden(bundle, lambda arrays: {"y": arrays["y"][:, ::-1].copy()})
    with pytest.raises(EngineError, match=r"tiny\.ort does not answer here"):
        export_ort(far, tmp_path / "out")


def test_another_target_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is for tensorrt-rtx"):
        export_ort(make_bundle(tmp_path / "b", target="tensorrt-rtx"), tmp_path / "out")


def test_a_changed_bundle_is_not_exported(bundle, tmp_path):
    (bundle / "model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError):
        export_ort(bundle, tmp_path / "out")


def test_the_command(pristine, tmp_path):
    result = CliRunner().invoke(cli, ["export", "ort", str(pristine), str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["cases"] == 3
