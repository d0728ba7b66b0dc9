"""Which class of the transformers library a model belongs to, and which fields of its result are the answer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enginery.errors import RecipeError, SourceError

TASKS: Final[Mapping[str, str]] = {
    "feature-extraction": "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "audio-classification": "AutoModelForAudioClassification",
}
"""The classes that a recipe can ask for in place of the checkpoint's own."""

_ANSWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "ForQuestionAnswering": ("start_logits", "end_logits"),
    "ObjectDetection": ("logits", "pred_boxes"),
    "ForDepthEstimation": ("predicted_depth",),
    "ForUniversalSegmentation": ("class_queries_logits", "masks_queries_logits"),
    "ForInstanceSegmentation": ("class_queries_logits", "masks_queries_logits"),
    "ForPreTraining": ("prediction_logits",),
    "TextModelWithProjection": ("text_embeds",),
    "VisionModelWithProjection": ("image_embeds",),
}
"""By the end of the class's name; all other classes with a head answer with `logits`."""


def class_name(config: Any, task: str | None) -> str:
    """The class that the weights were saved from, or the one that the recipe's `task` asks for.

    Raises:
        RecipeError: the task is unknown.
        SourceError: the configuration names no class that the installed transformers has.
    """
    if task is not None:
        if task not in TASKS:
            raise RecipeError(f"source.options.task: given {task!r}; expected one of {', '.join(TASKS)}.")
        return TASKS[task]
    import transformers

    named: Sequence[str] = getattr(config, "architectures", None) or ()
    known = [name for name in named if hasattr(transformers, name)]
    if not known:
        said = f"names the architecture {', '.join(named)}" if named else "names no architecture"
        raise SourceError(
            f"config.json {said}; expected one of transformers {transformers.__version__}, whose own code is the only "
            f"one that is run. Say in source.options.task what the model is for: {', '.join(TASKS)}."
        )
    return known[0]


def answer(model_class: type[Any]) -> tuple[str, ...]:
    """The fields of the result that are tensors and what a user of the class is after."""
    name = model_class.__name__
    for ending, fields in _ANSWERS.items():
        if name.endswith(ending):
            return fields
    if "return_loss" in inspect.signature(model_class.forward).parameters:
        return ("image_embeds", "text_embeds")  # two encoders that are compared, such as CLIP
    if name.endswith("Model") and not name.endswith(("HeadModel", "HeadsModel")):
        return ("last_hidden_state",)
    return ("logits",)
