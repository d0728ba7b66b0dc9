import json
import sys

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from enginery.errors import MissingDependencyError
from enginery.pipeline.bundle import Bundle
from enginery.pipeline.bundle.manifest import GateVerdict, Verdict
from enginery.pipeline.comparison import OutputFigures
from enginery.pipeline.comparison.figures import CaseFigures, Measured, MetricFigures
from enginery.pipeline.release.bom import render_bom

FIGURES = OutputFigures(
    name="y", samples=64, scale=2.0, max_abs=0.25, mean_abs=0.01, relative=0.125, cosine_mean=0.998,
    cosine_min=0.97, snr=24.5, top1=None, equal=None,
)  # fmt: skip
MEASURED = Measured(
    cases=(CaseFigures("max (batch=8)", (FIGURES,)),), evaluation=(FIGURES,), metric=MetricFigures(0.98, 0.975)
)


@pytest.fixture(scope="module")
def manifest(pristine):
    manifest = Bundle.open(pristine).manifest
    return manifest.model_copy(
        update={
            "precision": "int8",
            "recipe": {**manifest.recipe, "metric": {"name": "top1"}},
            "gates": (*manifest.gates, GateVerdict(gate="speed", verdict=Verdict.ALLOWED, words="0.9 times")),
        }
    )


@pytest.fixture(scope="module")
def document(manifest):
    return json.loads(render_bom(manifest, MEASURED))


def test_the_strict_validator_of_cyclonedx_passes(manifest):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(render_bom(manifest, MEASURED)) is None


def test_a_bundle_of_nothing_measured_is_valid_too(manifest):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(render_bom(manifest, Measured())) is None


def test_equal_manifests_give_equal_bytes_and_others_another_serial_number(manifest):
    first = render_bom(manifest, MEASURED)
    assert render_bom(manifest, MEASURED) == first
    other = json.loads(render_bom(manifest.model_copy(update={"name": "other"}), MEASURED))
    assert other["serialNumber"] != json.loads(first)["serialNumber"]


def test_it_carries_no_time(document):
    assert "timestamp" not in document["metadata"]


def test_every_file_is_a_component_with_its_digest(manifest, document):
    root = document["metadata"]["component"]
    listed = {part["name"]: part["hashes"][0]["content"] for part in root["components"]}
    assert listed == {name: record.sha256 for name, record in manifest.files.items()}


def test_the_original_is_the_ancestor(document):
    (ancestor,) = document["metadata"]["component"]["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]


def test_data_sets_are_components_that_the_model_card_refers_to(document):
    card = document["metadata"]["component"]["modelCard"]
    data = {part["bom-ref"]: part for part in document["components"] if part["type"] == "data"}
    assert {entry["ref"] for entry in card["modelParameters"]["datasets"]} == data.keys()
    assert data["data/evaluation"]["hashes"][0]["content"] == "2" * 64


def test_packages_have_package_urls(document):
    urls = {part["purl"] for part in document["components"] if part["type"] == "library"}
    assert "pkg:pypi/onnx@1.20" in urls


def test_the_model_card_has_the_metrics(document):
    metrics = document["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "top1", "value": "0.975", "slice": "evaluation data, this engine"} in metrics
    assert {"type": "mean per-sample cosine", "value": "0.998", "slice": "max (batch=8), y"} in metrics


def test_the_model_card_has_the_limits(document):
    considerations = document["metadata"]["component"]["modelCard"]["considerations"]
    assert any("batch was checked from 1 to 8" in words for words in considerations["technicalLimitations"])
    assert any("speed refused, and it was shipped" in words for words in considerations["technicalLimitations"])
    assert "int8" in considerations["performanceTradeoffs"][0]


def test_without_the_extra_the_message_names_it(manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclonedx.output", None)
    with pytest.raises(MissingDependencyError, match=r"enginery\[build\]"):
        render_bom(manifest, MEASURED)
