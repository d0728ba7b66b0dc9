"""Source `hf`: a model of the transformers library, from a folder or by its name on the hub."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.errors import MissingDependencyError, RecipeError, SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source.digest import file_digest
from enginery.pipeline.source.hf_class import answer, class_name
from enginery.pipeline.source.original import Original, parameters_digest
from enginery.pipeline.source.torchvision import prepare_torchvision
from enginery.pipeline.source.weights import check_pinned, load_state, read_weights, weights_file

if TYPE_CHECKING:
    import torch

OWN_OPTIONS = ("task", "outputs", "revision")
"""Options of this loader; all others go to `from_pretrained`."""

PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.py", "*.txt")


def load(source: Source, folder: Path, inputs: Sequence[str]) -> Original:
    """Load the model in float32 and wrap it so that it takes the recipe's inputs and returns tensors by name.

    The class is the one that the weights were saved from, so that a classifier keeps its head; the option `task`
    (one of `hf_class.TASKS`) asks for another. Further options: `outputs` (fields of the result), `revision`, and
    keyword arguments of `from_pretrained`, such as `attn_implementation`. Code of the model's own repository is never
    executed. A hub name is looked for in the local cache first.

    Raises:
        RecipeError: the task or an input is unknown to the model.
        SourceError: the model cannot be found or loaded, or its weights are not all there.
    """
    options = dict(source.options)
    model, missing, preparation = _pretrained(source, folder, options)
    outputs = tuple(options.get("outputs", answer(type(model))))
    if source.weights is None:
        preparation += _complete(model, missing, outputs)
    else:
        path = weights_file(source.weights, folder)
        check_pinned(source.weights, path)
        load_state(model, read_weights(path), path.name)
    preparation += prepare(model)
    wrapped = wrap(model, tuple(inputs) or (model.main_input_name,), outputs)
    provenance: dict[str, Any] = {
        "hf": Path(source.hf or "").name if _local(source, folder) else source.hf,
        "class": type(model).__name__,
        "options": source.options,
        "commit": getattr(model.config, "_commit_hash", None),
    }
    return Original("hf", parameters_digest(model), wrapped, provenance=provenance, preparation=preparation)


def digest(source: Source, folder: Path) -> dict[str, Any]:
    """The files of a folder, or the commit that a hub name stands for in the local cache (None: not yet there)."""
    facts: dict[str, Any] = {"transformers": _version()}
    local = _local(source, folder)
    if source.weights is not None:
        facts["weights"] = file_digest(weights_file(source.weights, folder))
    if local is not None:
        files = sorted({path for pattern in PATTERNS for path in local.glob(pattern) if path.is_file()})
        return {**facts, "files": {path.name: file_digest(path) for path in files}}
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.hf or "", "config.json", revision=source.options.get("revision"))
    return {**facts, "name": source.hf, "commit": Path(found).parent.name if isinstance(found, str) else None}


def model_class(folder: Path) -> tuple[type[Any], Any]:
    """The class that a folder's weights were saved from, and its configuration; no weights are read.

    Raises:
        SourceError: transformers does not know it.
    """
    _version()
    prepare_torchvision()
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"transformers cannot read {folder}/config.json: {error}") from error
    return getattr(transformers, class_name(config, None)), config


def wrap(model: torch.nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> torch.nn.Module:
    """A module whose forward takes exactly `inputs`, in order or by name, and returns the fields `outputs`, by name.

    Raises:
        RecipeError: the model's own forward has no such input.
    """
    import torch

    known = inspect.signature(model.forward).parameters
    unknown = [name for name in inputs if name not in known]
    if unknown:
        raise RecipeError(f"The model {type(model).__name__} has no input {unknown}; it takes: {', '.join(known)}.")

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> dict[str, torch.Tensor]:
            result = self.model(**dict(zip(inputs, args, strict=False)), **kwargs, **_fixed(known))
            if absent := [name for name in outputs if name not in result]:
                raise RecipeError(
                    f"The answer of {type(self.model).__name__} has no {absent}; it has: {', '.join(result)}. "
                    "Name the fields that you want in source.options.outputs."
                )
            return {name: result[name] for name in outputs}

    # Exporters and sessions read the names of the inputs from the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=torch.Tensor) for name in ("self", *inputs)]
    Wrapped.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return Wrapped().eval()


def _fixed(known: Mapping[str, object]) -> dict[str, Any]:
    """Arguments that make the model answer with tensors only: no cache of keys and values."""
    fixed = {"return_dict": True, "use_cache": False}
    return {name: value for name, value in fixed.items() if name in known}


def _pretrained(source: Source, folder: Path, options: Mapping[str, Any]) -> tuple[Any, list[str], tuple[str, ...]]:
    """The model, the names of its weights that the checkpoint lacks, and what was done to load it."""
    import torch

    _version()
    preparation = prepare_torchvision()
    import transformers

    local = _local(source, folder)
    name = str(local) if local is not None else source.hf or ""
    of_config = {"trust_remote_code": False, **{key: options[key] for key in ("revision",) if key in options}}
    passed = {key: value for key, value in options.items() if key not in OWN_OPTIONS}
    passed = {"dtype": torch.float32, "use_safetensors": True, **of_config, **passed}

    def load(*, local_files_only: bool) -> Any:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=local_files_only, **of_config)
        load_class = getattr(transformers, class_name(config, options.get("task")))
        return load_class.from_pretrained(name, local_files_only=local_files_only, output_loading_info=True, **passed)

    try:
        with _silent():
            try:
                model, found = load(local_files_only=True)
            except OSError:
                if local is not None:
                    raise
                model, found = load(local_files_only=False)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise SourceError(
            f"transformers cannot load {source.hf!r}: {error} Give a folder with config.json and model.safetensors, "
            "or a name that the hub knows and this machine can reach."
        ) from error
    if unread := sorted(found["unexpected_keys"]):
        preparation += (f"left out: {_some(unread)}, for which {type(model).__name__} has no place",)
    missing = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    return model.eval(), sorted(missing), preparation


@contextmanager
def _silent() -> Generator[None]:
    """Without transformers' own bars and warnings: what they warn of is an error here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _complete(model: Any, missing: Sequence[str], outputs: Sequence[str]) -> tuple[str, ...]:
    """Refuse a model with weights that the checkpoint lacks: transformers draws them at random, and warns.

    Checkpoints without a pooler are common. Where no output needs it, it is taken out.
    """
    if not missing:
        return ()
    if all(name.startswith("pooler.") for name in missing) and "pooler_output" not in outputs:
        model.pooler = None
        return ("pooler: left out (the checkpoint has no weights for it, and no output needs it)",)
    raise SourceError(
        f"{type(model).__name__} needs weights that the checkpoint lacks or has in another shape: {_some(missing)}. "
        "They would be random. Train them first, or ask in source.options.task for what the checkpoint was trained for."
    )


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def prepare(model: Any) -> tuple[str, ...]:
    """Choose, among a model's equivalent implementations, those that export; say by name what was chosen."""
    steps: list[str] = []
    config = getattr(model.config, "text_config", model.config)
    experts = any(hasattr(config, name) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if experts and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")
        steps.append("experts implementation: batched_mm (grouped_mm cannot be exported)")
    return tuple(steps)


def _local(source: Source, folder: Path) -> Path | None:
    path = folder / (source.hf or "")
    return path if path.is_dir() else None


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("transformers")
    except PackageNotFoundError as error:
        raise MissingDependencyError(
            "A recipe with `source.hf` needs the package transformers: pip install 'enginery[hf]'."
        ) from error
