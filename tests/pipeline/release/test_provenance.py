import json

import pytest

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle import verify_bundle
from enginery.pipeline.bundle.folder import PROVENANCE
from enginery.pipeline.release.provenance import read_statement, sign_statement, statement
from enginery.pipeline.release.sign import sign_bundle

NAMED = "https://ci.example.org/enginery"


@pytest.fixture
def document(pristine, keys):
    verified = verify_bundle(pristine)
    return statement(verified.manifest, verified.manifest_digest, builder=NAMED, finished="2026-01-02T03:04:05Z")


def test_the_subjects_are_the_manifest_and_every_file_it_lists(pristine, document):
    verified = verify_bundle(pristine)
    subjects = {entry["name"]: entry["digest"]["sha256"] for entry in document["subject"]}
    assert subjects == {name: verified.sums[name] for name in [*verified.manifest.files, "manifest.json"]}


def test_the_predicate_says_from_what_and_by_whom(document):
    predicate = document["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["externalParameters"]["recipe"]["name"] == "tiny"
    assert definition["externalParameters"]["target"] == "onnxruntime-cpu"
    materials = {entry["name"]: entry for entry in definition["resolvedDependencies"]}
    assert materials["original weights_digest"]["digest"] == {"sha256": "1" * 64}
    assert materials["data calibration"]["digest"] == {"sha256": "3" * 64}
    assert materials["onnx"]["uri"] == "pkg:pypi/onnx@1.20"
    assert details["builder"]["id"] == NAMED
    assert details["metadata"] == {"finishedOn": "2026-01-02T03:04:05Z"}


def test_a_builder_must_be_a_uri(pristine):
    verified = verify_bundle(pristine)
    with pytest.raises(UsageError, match="'our machine' is no URI"):
        statement(verified.manifest, verified.manifest_digest, builder="our machine")


def test_the_envelope_reads_back(document, keys, tmp_path):
    path = tmp_path / PROVENANCE
    path.write_text(sign_statement(document, keys / "ours.pem"))
    assert read_statement(path, keys / "ours.pub") == document
    assert path.read_text().count("\n") == 1


def test_the_envelope_of_a_bundle_is_bound_to_its_manifest(signed, keys):
    subjects = read_statement(signed / PROVENANCE, keys / "ours.pub")["subject"]
    assert {"name": "manifest.json", "digest": {"sha256": verify_bundle(signed).manifest_digest}} in subjects


def test_another_key_is_refused(signed, keys):
    with pytest.raises(IntegrityError, match="does not hold"):
        read_statement(signed / PROVENANCE, keys / "theirs.pub")


def test_an_edited_payload_is_refused(signed, keys):
    envelope = json.loads((signed / PROVENANCE).read_bytes())
    payload = envelope["payload"]
    envelope["payload"] = payload[:100] + ("B" if payload[100] == "A" else "A") + payload[101:]
    (signed / PROVENANCE).write_text(json.dumps(envelope))
    with pytest.raises(IntegrityError, match="does not hold"):
        read_statement(signed / PROVENANCE, keys / "ours.pub")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"payload": "", "payloadType": "x", "signatures": []}'])
def test_an_envelope_of_nonsense_is_refused(tmp_path, keys, content):
    (tmp_path / PROVENANCE).write_text(content)
    with pytest.raises(IntegrityError, match="does not hold"):
        read_statement(tmp_path / PROVENANCE, keys / "ours.pub")


def test_the_builder_is_given_when_signing(bundle, keys):
    sign_bundle(bundle, keys / "ours.pem", builder=NAMED)
    predicate = read_statement(bundle / PROVENANCE, keys / "ours.pub")["predicate"]
    assert predicate["runDetails"]["builder"]["id"] == NAMED
