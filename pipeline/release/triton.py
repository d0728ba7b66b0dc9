"""Export to a model repository of Triton Inference Server, and nothing that Triton would take in silence and ignore.

One bundle, or several TensorRT bundles of one model for different compute capabilities, become one version of one
model. What the engine had and Triton cannot be told is reported, not dropped unsaid.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.engines import get_engine
from enginery.errors import EngineError, EngineryError, UsageError
from enginery.pipeline.bundle import Bundle, must_be_outside, verify_bundle
from enginery.pipeline.bundle.manifest import GoldenCase, Manifest
from enginery.pipeline.files import sync_folder, sync_tree, write_durably
from enginery.pipeline.npz import read_npz
from enginery.pipeline.release import batching
from enginery.pipeline.release.batching import BatchPlan
from enginery.pipeline.release.triton_config import Plan, Warmup, batch_dim, model_config, platform
from enginery.pipeline.release.triton_lint import CONFIG, lint_model, read_config
from enginery.pipeline.release.triton_onnxruntime import left_out


@dataclass(frozen=True)
class Exported:
    """A model in a repository; `notes` say what was decided and what could not be carried over."""

    folder: Path
    version: int
    notes: tuple[str, ...]
    batching: BatchPlan | None


def export_triton(
    paths: Sequence[Path],
    repository: Path,
    *,
    name: str | None = None,
    version: int | None = None,
    keep_versions: int = 1,
    instances: int = 1,
    public_key: Path | None = None,
) -> Exported:
    """Add a model, or a new version of one, to a repository.

    Args:
        paths: one bundle; or TensorRT bundles of one recipe, one for each compute capability.
        repository: the model repository; made where it is absent.
        name: the model's name in Triton (default: the recipe's).
        version: its number (default: one more than the last).
        keep_versions: how many of the latest versions Triton serves.
        instances: how many instances Triton loads on each device.
        public_key: demand a signature that this key verifies.

    Raises:
        UsageError: Triton has no backend for the target, the bundles are of different models, the version is taken, or
            the model that is there has other inputs or outputs.
        IntegrityError: a bundle does not verify.
        EngineError: an engine was not validated, or Triton would not take what was written.
        MissingDependencyError: the extra `triton` is absent.
    """
    for path in paths:
        must_be_outside(repository, path)
    bundles = [_verified(path.resolve(), public_key) for path in paths]
    manifest = bundles[0].manifest
    platform(manifest.target)
    _must_agree([bundle.manifest for bundle in bundles])
    name = name or manifest.name
    folder = repository / name
    number = _free_version(folder, version)
    plan, notes = _plan(bundles, name, keep_versions, instances)
    repository.mkdir(parents=True, exist_ok=True)
    fresh = repository / f".{name}.new.{secrets.token_hex(4)}"
    fresh.mkdir()
    try:
        _write(fresh / name, number, bundles, manifest, plan)
        if faults := lint_model(fresh / name):
            raise EngineError(f"Triton would not serve {name} as meant: {'; '.join(faults)}.")
        _must_match(folder, fresh / name)
        _publish(fresh / name, folder, number)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Exported(folder, number, tuple(notes), plan.batching)


def _verified(path: Path, public_key: Path | None) -> Bundle:
    verified = verify_bundle(path, public_key=public_key)
    if not verified.manifest.validated:
        raise EngineError(
            f"{path} was never run, so nothing says that it answers right. Complete it first: "
            f"{verified.manifest.complete_with}"
        )
    return Bundle(path, verified.manifest)


def _must_agree(manifests: Sequence[Manifest]) -> None:
    first = manifests[0]
    if len(manifests) > 1 and first.target != "tensorrt":
        raise UsageError(
            f"Several bundles make one model only for TensorRT, one plan for each GPU; given: {first.target}."
        )
    for other in manifests[1:]:
        for what in ("name", "target", "precision", "inputs", "outputs", "dims"):
            if getattr(other, what) != getattr(first, what):
                raise UsageError(f"The bundles differ in {what}: they are not one model for several GPUs.")


def _free_version(folder: Path, wanted: int | None) -> int:
    taken = {int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()}
    if wanted is None:
        return max(taken, default=0) + 1
    if wanted in taken:
        raise UsageError(
            f"{folder} has a version {wanted} already. Leave --version out to add version {max(taken) + 1}."
        )
    return wanted


def _plan(bundles: Sequence[Bundle], name: str, keep_versions: int, instances: int) -> tuple[Plan, list[str]]:
    bundle, manifest = bundles[0], bundles[0].manifest
    notes = left_out(manifest)
    batch = batch_dim(manifest)
    if batch is None:
        notes.append("no batching: no dimension leads every input and output, so Triton gets full shapes")
    elif manifest.dims[batch].min > 1:
        notes.append(f"no batching: the engine takes no batch below {manifest.dims[batch].min}, and Triton sends 1")
        batch = None
    planned = _batching(bundle, batch, notes) if batch is not None else None
    by_capability = _capabilities(bundles)
    if manifest.target == "tensorrt":
        notes.append(f"serve it with the Triton release that ships TensorRT {manifest.engine.options.get('version')}")
    return Plan(
        name=name,
        batch=batch,
        max_batch=manifest.dims[batch].max if batch is not None else 0,
        filename=_filename(manifest),
        batching=planned,
        warmups=tuple(_warmup(case, bundle, batch) for case in manifest.golden),
        by_capability=by_capability,
        keep_versions=keep_versions,
        instances=instances,
    ), notes


def _filename(manifest: Manifest) -> str:
    return "model.plan" if manifest.target == "tensorrt" else "model.onnx"


def _batching(bundle: Bundle, batch: str, notes: list[str]) -> BatchPlan | None:
    """Measure the engine where it runs here; where it does not, nothing is guessed."""
    bounds = bundle.manifest.dims[batch]
    if bounds.max == 1:
        return None
    engine = get_engine(bundle.manifest.target)
    reason = engine.cannot_run()
    golden = bundle.manifest.golden
    if reason is not None or not golden:
        notes.append(f"no dynamic batching: its latency could not be measured here ({reason or 'no golden inputs'})")
        return None
    case = next((case for case in golden if case.name == "opt"), golden[0])
    try:
        with engine.load(bundle.artifact, bundle.spec) as session:
            sizes = batching.batch_sizes(bounds.min, bounds.max)
            curve = batching.measure(session, read_npz(bundle.path / case.inputs), batch, sizes)
    except EngineryError as error:
        notes.append(f"no dynamic batching: its latency could not be measured here ({error})")
        return None
    planned = batching.plan(curve)
    notes.append(planned.words)
    return planned


def _capabilities(bundles: Sequence[Bundle]) -> dict[str, str]:
    """File names by compute capability; empty for one plan that does not say which it is for."""
    if bundles[0].manifest.target != "tensorrt":
        return {}
    known = [bundle.manifest.engine.facts.get("capability") for bundle in bundles]
    if len(bundles) > 1 and (None in known or len(set(known)) != len(known)):
        raise UsageError(f"Each bundle must be for another compute capability; they say: {known}.")
    return {str(found): f"model_{found}.plan" for found in known if found is not None}


def _warmup(case: GoldenCase, bundle: Bundle, batch: str | None) -> Warmup:
    arrays = _sample(bundle, case, batch)
    inputs = {name: (_warmup_file(case, bundle.manifest, name), array.shape) for name, array in arrays.items()}
    return Warmup(f"golden-{case.name}", inputs)


def _warmup_file(case: GoldenCase, manifest: Manifest, name: str) -> str:
    # By position: an input's name may hold what a file name cannot.
    return f"{case.name}.{[tensor.name for tensor in manifest.inputs].index(name)}"


def _sample(bundle: Bundle, case: GoldenCase, batch: str | None) -> Mapping[str, Any]:
    """One request of a golden case: its first sample, or all of it where there is no batch dimension."""
    arrays = read_npz(bundle.path / case.inputs)
    return {name: array[0] if batch is not None else array for name, array in arrays.items()}


def _write(folder: Path, version: int, bundles: Sequence[Bundle], manifest: Manifest, plan: Plan) -> None:
    from google.protobuf import text_format

    config = model_config(manifest, plan)
    place = folder / str(version)
    place.mkdir(parents=True)
    (folder / "warmup").mkdir()
    for bundle in bundles:
        capability = str(bundle.manifest.engine.facts.get("capability"))
        _copy_engine(bundle, place, plan.by_capability.get(capability, plan.filename))
    for case in manifest.golden:
        for name, array in _sample(bundles[0], case, plan.batch).items():
            (folder / "warmup" / _warmup_file(case, manifest, name)).write_bytes(array.tobytes())
    (folder / CONFIG).write_text(text_format.MessageToString(config), encoding="utf-8")
    sync_tree(folder)


def _copy_engine(bundle: Bundle, place: Path, filename: str) -> None:
    """The engine's entry under Triton's name, and beside it the files that it refers to under theirs."""
    artifact = bundle.artifact
    for path in sorted(artifact.folder.rglob("*")):
        if not path.is_file() or path.suffix == ".log":
            continue
        relative = path.relative_to(artifact.folder)
        target = place / (filename if relative.as_posix() == artifact.entry else relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _must_match(folder: Path, fresh: Path) -> None:
    """A new version speaks to the clients of the old: same inputs, same outputs."""
    if not (folder / CONFIG).is_file():
        return
    before, after = read_config(folder / CONFIG), read_config(fresh / CONFIG)
    for kind in ("input", "output"):
        old = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in getattr(before, kind)}
        new = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in getattr(after, kind)}
        if old != new:
            names = sorted(name for name in old | new if old.get(name) != new.get(name))
            raise UsageError(
                f"{folder} serves a model with other {kind}s ({', '.join(names)}): its clients would break. "
                "Export under another --name."
            )


def _publish(fresh: Path, folder: Path, version: int) -> None:
    """Put the version in place by one rename; the configuration follows, whole or not at all."""
    if not folder.exists():
        fresh.rename(folder)
        sync_folder(folder.parent)
        return
    (folder / "warmup").mkdir(exist_ok=True)
    for path in sorted((fresh / "warmup").iterdir()):
        write_durably(folder / "warmup" / path.name, path.read_bytes())
    (fresh / str(version)).rename(folder / str(version))
    write_durably(folder / CONFIG, (fresh / CONFIG).read_bytes())
