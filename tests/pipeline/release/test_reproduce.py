import json
import shutil

import pytest
from bundles import make_bundle
from click.testing import CliRunner

from enginery.errors import IntegrityError, StageError
from enginery.pipeline.bundle import file_records, write_sums
from enginery.pipeline.cli.main import cli
from enginery.pipeline.files import pretty_json
from enginery.pipeline.release.reproduce import compare_bundles, reproduce
from enginery.pipeline.release.sign import sign_bundle


def relist(bundle):
    """Make manifest and sums agree with the files again."""
    path = bundle / "manifest.json"
    document = json.loads(path.read_bytes())
    document["files"] = {name: r.model_dump() for name, r in file_records(bundle, list(document["files"])).items()}
    path.write_text(pretty_json(document))
    write_sums(bundle)


@pytest.fixture
def twin(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "twin")


def test_equal_bundles_have_no_difference(bundle, twin):
    assert compare_bundles(bundle, twin) == ()


def test_measurements_may_differ(bundle, twin):
    (twin / "report.json").write_text("{}")
    relist(twin)
    assert compare_bundles(bundle, twin) == ()


def test_a_signature_is_no_difference(bundle, twin, keys):
    sign_bundle(twin, keys / "ours.pem")
    assert compare_bundles(bundle, twin) == ()


def test_the_field_of_a_manifest_is_named(bundle, twin):
    path = twin / "manifest.json"
    document = json.loads(path.read_bytes())
    document["stages"][0]["tools"]["onnx"] = "1.21"
    path.write_text(pretty_json(document))
    relist(twin)
    (difference,) = compare_bundles(bundle, twin)
    assert str(difference) == 'manifest.json differs at stages[0].tools.onnx: "1.20" and "1.21"'


def test_a_field_that_only_one_has_is_named(bundle, twin):
    path = twin / "manifest.json"
    document = json.loads(path.read_bytes())
    del document["data"]["evaluation"]
    path.write_text(pretty_json(document))
    relist(twin)
    assert compare_bundles(bundle, twin)[0].field == "data.evaluation"
    assert compare_bundles(bundle, twin)[0].second == "absent"


def test_the_cause_comes_before_the_manifest_that_repeats_it(bundle, tmp_path):
    other = make_bundle(tmp_path / "other", seed=1)
    differences = compare_bundles(bundle, other)
    assert differences[0].file == "engine/model.onnx"
    assert differences[-1].file == "manifest.json"


def test_the_first_byte_of_another_file_is_named(bundle, twin):
    content = bytearray((twin / "model.onnx").read_bytes())
    content[40] ^= 1
    (twin / "model.onnx").write_bytes(content)
    relist(twin)
    assert compare_bundles(bundle, twin)[0].field == "byte 40"


def test_a_file_that_only_one_has(bundle, tmp_path):
    other = make_bundle(tmp_path / "other", golden=())
    (other / "golden" / "min.inputs.npz").unlink()
    document = json.loads((other / "manifest.json").read_bytes())
    del document["files"]["golden/min.inputs.npz"]
    (other / "manifest.json").write_text(pretty_json(document))
    relist(other)
    difference = compare_bundles(bundle, other)[0]
    assert str(difference) == "golden/min.inputs.npz differs: present and absent"


def test_a_damaged_bundle_is_not_compared(bundle, twin):
    (twin / "model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError):
        compare_bundles(bundle, twin)


def test_a_failing_build_says_why(tmp_path):
    with pytest.raises(StageError, match=r"nothing to compare.*no-such-recipe"):
        reproduce("no-such-recipe", [], tmp_path, lambda _: None)


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "old").touch()
    result = CliRunner().invoke(cli, ["reproduce", "digits", "--keep", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


@pytest.mark.slow
def test_digits_is_reproducible(tmp_path):
    result = CliRunner().invoke(cli, ["reproduce", "digits", "--keep", str(tmp_path / "builds"), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["reproducible"]
    assert list(document["manifests"]) == ["digits/onnxruntime-cpu-fp32"]
