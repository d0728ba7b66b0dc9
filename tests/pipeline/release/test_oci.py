import hashlib
import json

import pytest
from bundles import make_bundle
from click.testing import CliRunner

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle import verify_bundle
from enginery.pipeline.cli.main import cli
from enginery.pipeline.release.oci import ARTIFACT, REFERENCE, TITLE, export_oci


def blob(layout, digest):
    algorithm, _, value = digest.partition(":")
    content = (layout / "blobs" / algorithm / value).read_bytes()
    assert hashlib.sha256(content).hexdigest() == value
    return content


def index(layout):
    return json.loads((layout / "index.json").read_bytes())["manifests"]


def unpack(layout, descriptor, folder):
    """What `oras pull` does: every layer under its title."""
    manifest = json.loads(blob(layout, descriptor["digest"]))
    for layer in manifest["layers"]:
        path = folder / layer["annotations"][TITLE]
        path.parent.mkdir(parents=True, exist_ok=True)
        content = blob(layout, layer["digest"])
        assert len(content) == layer["size"]
        path.write_bytes(content)
    return manifest


@pytest.fixture
def layout(pristine, tmp_path):
    return export_oci(pristine, tmp_path / "layout").layout


def test_the_layout_follows_the_specification(layout):
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = index(layout)
    manifest = json.loads(blob(layout, entry["digest"]))
    assert manifest["schemaVersion"] == 2
    assert manifest["artifactType"] == entry["artifactType"] == ARTIFACT
    assert manifest["mediaType"] == entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert blob(layout, manifest["config"]["digest"]) == b"{}"


def test_what_is_pulled_is_the_bundle(layout, pristine, tmp_path):
    manifest = unpack(layout, index(layout)[0], tmp_path / "pulled")
    assert verify_bundle(tmp_path / "pulled").digest == verify_bundle(pristine).digest
    assert manifest["annotations"]["enginery.bundle.sha256"] == verify_bundle(pristine).digest


def test_a_signed_bundle_stays_signed(signed, keys, tmp_path):
    layout = export_oci(signed, tmp_path / "layout", public_key=keys / "ours.pub").layout
    unpack(layout, index(layout)[0], tmp_path / "pulled")
    assert verify_bundle(tmp_path / "pulled", public_key=keys / "ours.pub").signed


def test_the_same_bundle_is_the_same_artifact(pristine, tmp_path):
    assert export_oci(pristine, tmp_path / "a").digest == export_oci(pristine, tmp_path / "b").digest


def test_equal_files_are_stored_once(layout, tmp_path):
    before = len(list((layout / "blobs" / "sha256").iterdir()))
    export_oci(make_bundle(tmp_path / "b", seed=0, name="other"), layout, tag="other")
    added = len(list((layout / "blobs" / "sha256").iterdir())) - before
    # Its manifest, its sums and the artifact's manifest; engine, graph and golden files are there.
    assert added == 3
    assert {entry["annotations"][REFERENCE] for entry in index(layout)} == {"onnxruntime-cpu-fp32", "other"}


def test_a_tag_moves_to_the_newer_artifact(layout, tmp_path):
    done = export_oci(make_bundle(tmp_path / "b", seed=1), layout)
    assert [entry["digest"] for entry in index(layout)] == [done.digest]


@pytest.mark.parametrize("tag", ["a b", "-x", "ä", "x" * 129, "a/b"])
def test_a_tag_that_is_none(pristine, tmp_path, tag):
    with pytest.raises(UsageError, match="is no tag"):
        export_oci(pristine, tmp_path / "layout", tag=tag)


def test_a_folder_of_something_else_is_left_alone(pristine, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="no OCI image layout"):
        export_oci(pristine, tmp_path)


def test_a_damaged_index_is_not_overwritten(layout, pristine):
    (layout / "index.json").write_text("[]")
    with pytest.raises(IntegrityError, match="is no index"):
        export_oci(pristine, layout)
    assert (layout / "index.json").read_text() == "[]"


def test_a_changed_bundle_is_not_exported(bundle, tmp_path):
    (bundle / "model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError):
        export_oci(bundle, tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


def test_the_command(pristine, tmp_path):
    result = CliRunner().invoke(cli, ["export", "oci", str(pristine), str(tmp_path / "l"), "--tag", "v1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["digest"] == index(tmp_path / "l")[0]["digest"]
