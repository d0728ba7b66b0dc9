import json

import pytest

from enginery.errors import IntegrityError
from enginery.pipeline.bundle import manifest as manifests
from enginery.pipeline.bundle import verify_bundle, write_sums
from enginery.pipeline.bundle.manifest import SCHEMA_VERSION, Manifest, read_manifest


def rewrite(path, **changes):
    document = {**json.loads(path.read_bytes()), **changes}
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def test_a_manifest_reads_back_as_it_was_written(bundle):
    path = bundle / "manifest.json"
    assert read_manifest(path).to_json() == path.read_text()


def test_an_older_schema_is_migrated_when_it_is_read(bundle, monkeypatch):
    """Schema -1 called the target `engine_for`; two steps lead from there to today."""
    steps = {
        SCHEMA_VERSION - 2: lambda old: {"for": old.pop("engine_for"), **old},
        SCHEMA_VERSION - 1: lambda old: {"target": old.pop("for"), **old},
    }
    monkeypatch.setattr(manifests, "MIGRATIONS", steps)
    rewrite(bundle / "manifest.json", schema_version=SCHEMA_VERSION - 2, engine_for="onnxruntime-cpu", target=None)
    write_sums(bundle)
    migrated = verify_bundle(bundle).manifest
    assert migrated.target == "onnxruntime-cpu"
    assert migrated.schema_version == SCHEMA_VERSION


def test_every_older_version_has_a_step():
    assert set(manifests.MIGRATIONS) == set(range(1, SCHEMA_VERSION))


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_never_was_is_refused(bundle, version):
    rewrite(bundle / "manifest.json", schema_version=version)
    with pytest.raises(IntegrityError, match="not a valid manifest"):
        read_manifest(bundle / "manifest.json")


@pytest.mark.parametrize("version", [None, "1", 1.0, True, [1]])
def test_a_version_that_is_no_number_is_refused(bundle, version):
    rewrite(bundle / "manifest.json", schema_version=version)
    with pytest.raises(IntegrityError, match=r"has no schema_version"):
        read_manifest(bundle / "manifest.json")


def test_an_unknown_field_is_refused(bundle):
    rewrite(bundle / "manifest.json", surprise=1)
    with pytest.raises(IntegrityError, match="surprise"):
        read_manifest(bundle / "manifest.json")


def test_every_field_is_documented(repository):
    text = (repository / "docs" / "release.md").read_text()
    section = text.partition("\n## The manifest\n")[2].partition("\n## ")[0]
    for field in Manifest.model_fields:
        assert f"`{field}`" in section, f"docs/release.md says nothing of {field}"
