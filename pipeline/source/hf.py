"""Source `hf`: a model of the transformers library, from a folder or by its name on the hub."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.errors import MissingDependencyError, RecipeError, SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source.digest import file_digest
from enginery.pipeline.source.original import Original, parameters_digest
from enginery.pipeline.source.torchvision import prepare_torchvision
from enginery.pipeline.source.weights import check_pinned, load_state, read_weights, weights_file

if TYPE_CHECKING:
    import torch

TASKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "feature-extraction": ("AutoModel", ("last_hidden_state",)),
    "text-classification": ("AutoModelForSequenceClassification", ("logits",)),
    "token-classification": ("AutoModelForTokenClassification", ("logits",)),
    "question-answering": ("AutoModelForQuestionAnswering", ("start_logits", "end_logits")),
    "fill-mask": ("AutoModelForMaskedLM", ("logits",)),
    "text-generation": ("AutoModelForCausalLM", ("logits",)),
    "text2text-generation": ("AutoModelForSeq2SeqLM", ("logits",)),
    "image-classification": ("AutoModelForImageClassification", ("logits",)),
    "object-detection": ("AutoModelForObjectDetection", ("logits", "pred_boxes")),
    "semantic-segmentation": ("AutoModelForSemanticSegmentation", ("logits",)),
    "audio-classification": ("AutoModelForAudioClassification", ("logits",)),
}
"""Class of the transformers library, and the fields of its result that are tensors and the answer."""

OWN_OPTIONS = ("task", "outputs", "revision")
"""Options of this loader; all others go to `from_pretrained`."""

PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.py", "*.txt")


def load(source: Source, folder: Path, inputs: Sequence[str]) -> Original:
    """Load the model in float32 and wrap it so that it takes the recipe's inputs and returns tensors.

    Options: `task` (one of `TASKS`, default feature-extraction), `outputs` (fields of the result), `revision`, and
    keyword arguments of `from_pretrained`, such as `attn_implementation`. Code of the model's own repository is never
    executed. A hub name is looked for in the local cache first.

    Raises:
        RecipeError: the task or an input is unknown to the model.
        SourceError: the model cannot be found or loaded.
    """
    options = dict(source.options)
    task = options.get("task", "feature-extraction")
    if task not in TASKS:
        raise RecipeError(f"source.options.task: given {task!r}; expected one of {', '.join(TASKS)}.")
    class_name, fields = TASKS[task]
    outputs = tuple(options.get("outputs", fields))
    model, preparation = _pretrained(source, folder, class_name, options)
    if source.weights is not None:
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


def wrap(model: torch.nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> torch.nn.Module:
    """A module whose forward takes exactly `inputs`, in order or by name, and returns the named fields as tensors.

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

        def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
            result = self.model(**dict(zip(inputs, args, strict=False)), **kwargs, **_fixed(known))
            answer = tuple(result[name] for name in outputs)
            return answer[0] if len(answer) == 1 else answer

    # Exporters and sessions read the names of the inputs from the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=torch.Tensor) for name in ("self", *inputs)]
    Wrapped.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return Wrapped().eval()


def _fixed(known: Mapping[str, object]) -> dict[str, Any]:
    """Arguments that make the model answer with tensors only: no cache of keys and values."""
    fixed = {"return_dict": True, "use_cache": False}
    return {name: value for name, value in fixed.items() if name in known}


def _pretrained(
    source: Source, folder: Path, class_name: str, options: Mapping[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    import torch

    _version()
    preparation = prepare_torchvision()
    import transformers

    local = _local(source, folder)
    name = str(local) if local is not None else source.hf
    passed = {key: value for key, value in options.items() if key not in OWN_OPTIONS}
    passed |= {"revision": options["revision"]} if "revision" in options else {}
    passed = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True, **passed}
    load_class = getattr(transformers, class_name)
    try:
        try:
            return load_class.from_pretrained(name, local_files_only=True, **passed).eval(), preparation
        except OSError:
            if local is not None:
                raise
            return load_class.from_pretrained(name, **passed).eval(), preparation
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise SourceError(
            f"transformers cannot load {source.hf!r} as {class_name}: {error} Give a folder with config.json and "
            "model.safetensors, or a name that the hub knows and this machine can reach."
        ) from error


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
