"""Source `timm`: a model of the timm library by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginery.errors import MissingDependencyError, SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source.digest import file_digest
from enginery.pipeline.source.original import Original, parameters_digest
from enginery.pipeline.source.torchvision import prepare_torchvision
from enginery.pipeline.source.weights import check_pinned, load_state, read_weights, weights_file


def load(source: Source, folder: Path) -> Original:
    """Create the model, with the pinned weights of the recipe or timm's own pretrained ones.

    Options are keyword arguments of `timm.create_model`; only `pretrained: false` brings random weights.

    Raises:
        SourceError: timm does not know the model, or cannot get its weights.
    """
    _version()
    preparation = prepare_torchvision()
    import timm

    create: Any = timm.create_model  # its keyword arguments are the model's own
    options = {"pretrained": source.weights is None, "scriptable": False, "exportable": True, **source.options}
    try:
        module = create(source.timm, **options)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise SourceError(
            f"timm cannot create {source.timm!r} with {source.options}: {type(error).__name__}: {error}. "
            "Pin a weights file in `source.weights` where the hub cannot be reached."
        ) from error
    if options["pretrained"]:
        _require_its_head(source, module)
    provenance: dict[str, Any] = {"timm": source.timm, "options": source.options, "pretrained": options["pretrained"]}
    if source.weights is None:
        return Original("timm", parameters_digest(module), module.eval(), None, provenance, preparation)
    path = weights_file(source.weights, folder)
    digest = check_pinned(source.weights, path)
    load_state(module, read_weights(path), path.name)
    provenance["weights"] = {"file": path.name, "sha256": digest}
    return Original("timm", digest, module.eval(), None, provenance, preparation)


def _require_its_head(source: Source, module: Any) -> None:
    """Timm draws a classifier of another size than the pretrained one at random, in silence; 0 leaves it out."""
    trained = module.pretrained_cfg.get("num_classes")
    if module.num_classes not in (0, trained):
        raise SourceError(
            f"timm's pretrained {source.timm!r} has {trained} classes; given num_classes={module.num_classes}, "
            "for which its classifier would be random. Pin trained weights in `source.weights`, or leave it out."
        )


def digest(source: Source, folder: Path) -> dict[str, Any]:
    weights = file_digest(weights_file(source.weights, folder)) if source.weights is not None else None
    return {"timm": _version(), "weights": weights}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("timm")
    except PackageNotFoundError as error:
        raise MissingDependencyError(
            "A recipe with `source.timm` needs the package timm: pip install 'enginery[hf]'."
        ) from error
