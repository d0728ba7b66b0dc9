"""The parts list: a CycloneDX 1.6 ML-BOM (https://cyclonedx.org/docs/1.6/json/) with a model card.

It names the engine and its files, the original it descends from, the data that calibrated and judged it, the packages
that made it, what was measured and what the engine is not to be used for. It depends on the manifest and the figures
alone: no time, no random serial number.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, cast

from enginery.pipeline.bundle.manifest import Manifest, Verdict
from enginery.pipeline.comparison import OutputFigures
from enginery.pipeline.comparison.figures import Measured
from enginery.pipeline.extras import missing
from enginery.pipeline.files import canonical_json, pretty_json
from enginery.pipeline.release.provenance import tools

BOM = "bom.cdx.json"
_NAMESPACE = uuid.UUID("6f0e7c1e-6c0c-5b6c-9d3b-0a4f0f3a8f51")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIGURES = {
    "relative": "largest error relative to the output's scale",
    "cosine_mean": "mean per-sample cosine",
    "cosine_min": "minimum per-sample cosine",
    "snr": "median per-sample SNR (dB)",
    "top1": "top-1 agreement with the original",
    "equal": "equal elements",
}


def render_bom(manifest: Manifest, measured: Measured) -> str:
    """The parts list of a bundle as JSON.

    Args:
        manifest: lists every reproducible file but the parts list itself.
        measured: the figures for the model card.

    Raises:
        MissingDependencyError: cyclonedx-python-lib is absent.
    """
    try:
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    except ImportError as error:
        raise missing(error, "build", "A parts list") from error
    document = json.loads(make_outputter(_bom(manifest), OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    # The library writes the time, and has no model cards (its version 11).
    del document["metadata"]["timestamp"], document["serialNumber"]
    document["metadata"]["component"]["modelCard"] = model_card(manifest, measured)
    serial = uuid.uuid5(_NAMESPACE, canonical_json(document).decode())
    return pretty_json({**document, "serialNumber": f"urn:uuid:{serial}"})


def _bom(manifest: Manifest) -> Any:
    # The library's class decorators hide its classes from type checkers: what it makes is Any here.
    from cyclonedx.model import bom, component

    pedigree = cast("Any", component.Pedigree)(
        ancestors=[
            _part("MACHINE_LEARNING_MODEL", "original", f"{manifest.name} (original)", hashes=_weights(manifest))
        ],
        notes="Compiled by Enginery and compared with this ancestor.",
    )
    files = [
        _part("FILE", f"file/{name}", name, hashes=_hashes(record.sha256))
        for name, record in sorted(manifest.files.items())
    ]
    root = _part(
        "MACHINE_LEARNING_MODEL",
        "bundle",
        manifest.name,
        version=f"{manifest.target}-{manifest.precision}",
        description=manifest.recipe.get("description") or None,
        pedigree=pedigree,
        components=files,
    )
    parts = [*_packages(manifest), *_data(manifest)]
    result = cast("Any", bom.Bom)(components=parts)
    result.metadata.component = root
    result.register_dependency(root, parts)
    return result


def _packages(manifest: Manifest) -> Iterator[Any]:
    from packageurl import PackageURL

    for name, version in {**tools(manifest), "enginery": manifest.enginery}.items():
        yield _part("LIBRARY", f"pypi/{name}", name, version=version, purl=PackageURL("pypi", None, name, version))


def _data(manifest: Manifest) -> Iterator[Any]:
    for name, digest in sorted(manifest.data.items()):
        yield _part("DATA", f"data/{name}", f"{name} data", hashes=_hashes(digest))


def _part(kind: str, reference: str, name: str, **fields: Any) -> Any:
    from cyclonedx.model import component

    make = cast("Any", component.Component)
    return make(name=name, type=component.ComponentType[kind], bom_ref=reference, **fields)


def _weights(manifest: Manifest) -> list[Any]:
    digest = manifest.original.get("weights_digest")
    return _hashes(digest) if isinstance(digest, str) and _SHA256.fullmatch(digest) else []


def _hashes(digest: str) -> list[Any]:
    from cyclonedx import model

    return [cast("Any", model.HashType)(alg=model.HashAlgorithm.SHA_256, content=digest)]


def model_card(manifest: Manifest, measured: Measured) -> dict[str, Any]:
    """The model card: inputs, outputs, data sets, figures and limits."""
    return {
        "modelParameters": {
            "inputs": [{"format": str(signature.spec)} for signature in manifest.inputs],
            "outputs": [{"format": str(signature.spec)} for signature in manifest.outputs],
            "datasets": [{"ref": f"data/{name}"} for name in sorted(manifest.data)],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest, measured))},
        "considerations": {
            "technicalLimitations": list(_limits(manifest)),
            "performanceTradeoffs": list(_tradeoffs(manifest)),
        },
        "properties": [
            {"name": f"enginery:gate:{gate.gate}", "value": f"{gate.verdict.value}: {gate.words}"}
            for gate in manifest.gates
        ],
    }


def _metrics(manifest: Manifest, measured: Measured) -> Iterator[dict[str, str]]:
    if measured.metric is not None:
        name = _metric_name(manifest.recipe)
        yield {"type": name, "value": _text(measured.metric.engine), "slice": "evaluation data, this engine"}
        yield {"type": name, "value": _text(measured.metric.original), "slice": "evaluation data, the original"}
    for output in measured.evaluation:
        yield from _figures(output, f"evaluation data, {output.name}")
    for case in measured.cases:
        for output in case.outputs:
            yield from _figures(output, f"{case.case}, {output.name}")


def _metric_name(recipe: Mapping[str, Any]) -> str:
    metric = cast("Mapping[str, str]", recipe.get("metric") or {})
    return metric.get("name") or metric.get("python") or "metric"


def _figures(output: OutputFigures, where: str) -> Iterator[dict[str, str]]:
    for key, words in _FIGURES.items():
        value = getattr(output, key)
        if value is not None:
            yield {"type": words, "value": _text(value), "slice": where}


def _text(value: float) -> str:
    return format(value, ".6g")


def _limits(manifest: Manifest) -> Iterator[str]:
    for name, dim in sorted(manifest.dims.items()):
        yield f"Dimension {name} was checked from {dim.min} to {dim.max}, tuned for {dim.opt}; other sizes are refused."
    for gate in manifest.gates:
        if gate.verdict is Verdict.ALLOWED:
            yield f"Gate {gate.gate} refused, and it was shipped all the same: {gate.words}."
        if gate.verdict is Verdict.DEFERRED:
            yield f"Gate {gate.gate} was not judged yet: {gate.words}."


def _tradeoffs(manifest: Manifest) -> Iterator[str]:
    if manifest.precision != "fp32":
        yield f"Computes in {manifest.precision}: smaller or faster than the original, less exact by the figures given."
