"""The recipe: a YAML file that says all there is to say about one model.

`recipe.schema` is the schema; `recipe.file` reads and explains the file.
Every model is frozen and rejects unknown keys.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Dtype = Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    # Every figure falls short of no NaN, so that a bound of NaN would be a gate that is always open.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Weights(Part):
    """A weights file and its pinned digest: safetensors, or a state dict that loads with `weights_only`."""

    path: str | None = Field(default=None, description="File, relative to the recipe.")
    package: str | None = Field(default=None, description="Installed Python package that carries the file.")
    file: str | None = Field(default=None, description="Path inside the package.")
    sha256: Sha256

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.package is None) or (self.package is None) != (self.file is None):
            raise ValueError("give either `path`, or `package` with `file`")
        return self


class Source(Part):
    """Where the original comes from: exactly one of the first five keys."""

    factory: str | None = Field(
        default=None, description="`file.py:function` or `package.module:function` -> nn.Module."
    )
    onnx: str | None = Field(default=None, description="An ONNX file.")
    hf: str | None = Field(default=None, description="Hugging Face model: a folder or a hub name.")
    timm: str | None = Field(default=None, description="timm model name.")
    pt2: str | None = Field(
        default=None, description="torch.export archive; needs --trust, since loading can execute code."
    )
    weights: Weights | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the factory or loader.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [key for key in ("factory", "onnx", "hf", "timm", "pt2") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of factory, onnx, hf, timm, pt2; given: {given or 'none'}")
        return self

    @property
    def kind(self) -> str:
        return next(key for key in ("factory", "onnx", "hf", "timm", "pt2") if getattr(self, key) is not None)


class Tensor(Part):
    """An input or output: dtype, and a shape whose dynamic dimensions are names declared in `dims`."""

    dtype: Dtype = "float32"
    shape: tuple[int | str, ...]
    valid: str | None = Field(
        None,
        description="Outputs: the input that masks valid positions (nonzero = valid) along the dimensions it shares.",
    )


class Dim(Part):
    min: int = Field(ge=1)
    opt: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, given {self.min}, {self.opt}, {self.max}")
        return self


class ImagePreprocess(Part):
    """The usual preprocessing of a photo, in this order: resize, crop, colour order, scale, normalize, layout."""

    resize: int | None = Field(default=None, description="Bilinear resize of the short side, in pixels.")
    crop: int | None = Field(default=None, description="Centre crop to a square, in pixels.")
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    scale: float = Field(default=1 / 255, description="Multiplied with the raw 0-255 values.")
    mean: tuple[float, ...] = Field(default=(0.0,), description="Subtracted after scaling, per channel.")
    std: tuple[float, ...] = Field(default=(1.0,), description="Divided by after the mean, per channel.")
    layout: Literal["NCHW", "NHWC"] = "NCHW"


class TextPreprocess(Part):
    """Tokenization with a `tokenizer.json` of the `tokenizers` library."""

    tokenizer: str = Field(description="Path of tokenizer.json, or `package:path/inside`.")
    max_length: int | None = Field(default=None, ge=1)
    columns: tuple[str, ...] = Field(
        default=(), description="Columns of a tab-separated file that hold text: names, or numbers from 0."
    )
    label: str | None = Field(default=None, description="Column that holds the label.")


class Data(Part):
    """Batches of inputs: exactly one of `python`, `npz`, `images`, `text`."""

    python: str | None = Field(
        default=None, description="`file.py:function` yielding {input: array} or ({..}, labels)."
    )
    npz: str | None = Field(default=None, description="An .npz file or a folder of them: input names, and `labels`.")
    images: str | None = Field(default=None, description="A folder or zip of images.")
    labels: str | None = Field(default=None, description="Images: a CSV file with columns `file,label`.")
    text: str | None = Field(default=None, description="A text file, one sample a line, or a table with named columns.")
    image: ImagePreprocess | None = None
    tokenize: TextPreprocess | None = None
    input: str | None = Field(default=None, description="Images: the input's name (default: the only one).")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the Python callable.")
    batch: int | None = Field(default=None, ge=1, description="Samples per batch (default: the batch dimension's opt).")
    samples: int | None = Field(default=None, ge=1, description="Use the first N samples only.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [key for key in ("python", "npz", "images", "text") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of python, npz, images, text; given: {given or 'none'}")
        if self.images is not None and self.image is None:
            raise ValueError("`images` needs `image`: how a photo becomes an input")
        if self.text is not None and self.tokenize is None:
            raise ValueError("`text` needs `tokenize`: how a line becomes an input")
        return self

    @property
    def kind(self) -> str:
        return next(key for key in ("python", "npz", "images", "text") if getattr(self, key) is not None)


class Datasets(Part):
    calibration: Data | None = None
    evaluation: Data | None = None
    training: Data | None = Field(default=None, description="For module passes that train or read activations.")


class Mode(StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_WEIGHT = "int8-weight"
    INT4_WEIGHT = "int4-weight"
    AUTO = "auto"
    """Decided by measurement before anything is built; see `enginery.pipeline.choice.auto`."""


class Override(Part):
    """A per-node exception to the target's policy. `nodes` is a name or a regular expression (full match)."""

    nodes: str
    quantize: bool | None = None
    symmetric: bool | None = None
    per_channel: bool | None = None
    output: bool | None = None


class Precision(Part):
    """The precision and its options. In YAML a bare `int8` means `{mode: int8}`."""

    mode: Mode = Mode.FP32
    observer: Literal["minmax", "moving-average", "percentile", "entropy", "mse"] = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100)
    passes: tuple[str, ...] | Literal["default"] = Field(
        default="default", description="Quantization remedies, in order, such as `smooth{alpha=auto}`."
    )
    overrides: tuple[Override, ...] = ()
    keep_float: tuple[str, ...] = Field(
        default=(), description="Regular expressions of nodes left in float, by the name of the node or of its weight."
    )
    block_size: int = Field(default=32, ge=16, description="Weight-only int4: elements per scale.")
    rest: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp32", description="Of a quantized engine: the precision of what is not quantized."
    )

    @model_validator(mode="after")
    def _rest_of_integers(self) -> Self:
        integer = (Mode.INT8, Mode.INT8_WEIGHT, Mode.INT4_WEIGHT)
        if self.rest != "fp32" and self.mode not in integer:
            raise ValueError(
                f"`rest: {self.rest}` is what stays float beside integers, and the mode is {self.mode}; "
                f"modes that have such a rest: {', '.join(integer)}"
            )
        return self


class FloatTolerance(Part):
    """Float engines: the largest error, relative to the output's scale (its largest absolute value)."""

    relative: float = Field(default=1e-4, gt=0)


class QuantizedTolerance(Part):
    """Quantized engines: the lowest mean and minimum per-sample cosine, and the lowest median per-sample SNR in dB."""

    cosine: float = Field(default=0.99, ge=-1, le=1)
    cosine_min: float = Field(default=0.9, ge=-1, le=1)
    snr: float = Field(default=10.0)


class Tolerances(Part):
    float_: FloatTolerance = Field(default=FloatTolerance(), alias="float")
    half: FloatTolerance = Field(default=FloatTolerance(relative=2e-2), description="fp16 and bf16 engines.")
    quantized: QuantizedTolerance = QuantizedTolerance()

    model_config = ConfigDict(populate_by_name=True)


class Speed(Part):
    """The speed gate: median latency of the float engine of the same target over this engine's."""

    minimum: float = Field(
        default=1.0, gt=0, description="Least speed-up; the whole confidence interval must reach it."
    )
    required: bool = Field(default=True, description="False where size matters and a slower engine may ship.")


class Metric(Part):
    """A task metric: a built-in name, or a callable over (outputs, labels) pairs."""

    name: Literal["top1", "top5", "spearman-pairs", "perplexity", "agreement"] | None = Field(
        default=None, description="A built-in metric."
    )
    python: str | None = Field(
        default=None, description="`file.py:function`, taking an iterator of (outputs, labels) pairs."
    )
    output: str | None = Field(default=None, description="The output that is scored (default: the first).")
    max_drop: float = Field(ge=0, description="Largest allowed loss against the original, in the metric's own unit.")
    higher_is_better: bool = True
    expected: float | None = Field(
        default=None, description="The original's figure; a build that measures another is refused."
    )
    expected_tolerance: float = Field(default=1e-3, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.name is None) == (self.python is None):
            raise ValueError("give either `name` or `python`")
        if self.name is not None and self.higher_is_better == (self.name == "perplexity"):
            raise ValueError(f"`{self.name}` needs `higher_is_better: {str(self.name != 'perplexity').lower()}`")
        return self


class Postprocess(Part):
    """How an output becomes an answer, along its last dimension: a function, then the largest values, with labels."""

    apply: Literal["softmax", "sigmoid", "normalize"] | None = Field(
        default=None, description="`normalize` divides by the Euclidean length."
    )
    top: int | None = Field(default=None, ge=1, description="Keep the largest values only, the largest first.")
    labels: str | None = Field(default=None, description="With `top`: a text file of labels, one a line.")

    @model_validator(mode="after")
    def _labels_with_top(self) -> Self:
        if self.labels is not None and self.top is None:
            raise ValueError("`labels` needs `top`: how many labels an answer has")
        return self


class Recipe(Part):
    """All there is to say about one model."""

    name: Name
    description: str = ""
    source: Source
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor] = Field(default_factory=dict, description="Names, dtypes and shapes to insist on.")
    dims: dict[str, Dim] = Field(default_factory=dict)
    data: Datasets = Datasets()
    module_passes: tuple[str, ...] = ()
    graph_passes: Literal["default"] | tuple[str, ...] = "default"
    precision: Precision = Precision()
    targets: tuple[str, ...] = ("onnxruntime-cpu",)
    engine: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Engine options by target.")
    tolerances: Tolerances = Tolerances()
    speed: Speed = Speed()
    objective: Literal["latency", "size"] = Field(
        default="latency", description="What `auto` chooses by, among the engines that every gate passes."
    )
    shapes: tuple[dict[str, int], ...] = Field(
        default=(),
        description="Sizes that matter, absent dimensions at opt: compared, too, and where `auto` times engines "
        "(default: opt twice, min and max) and `static_shapes` compiles for.",
    )
    metric: Metric | None = None
    postprocess: dict[str, Postprocess] = Field(
        default_factory=dict, description="By output; applied by `predict`, pinned in the bundle."
    )
    opset: int | None = Field(default=None, ge=17, description="Opset of the export (default: chosen by Enginery).")
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    signature: Literal["optional", "required"] = Field(
        default="optional", description="`required`: its bundles verify only with the public key of who signed them."
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _bare_precision(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value

    @field_validator("targets", "engine")
    @classmethod
    def _known_targets(cls, value: tuple[str, ...] | dict[str, Any]) -> Any:
        from enginery.engines import targets

        if unknown := next((name for name in value if name not in (*targets(), "auto")), None):
            raise ValueError(f"there is no target {unknown!r}; available: {', '.join(targets())} and auto")
        return value

    @model_validator(mode="after")
    def _postprocessed_outputs_are_declared(self) -> Self:
        if unknown := sorted(self.postprocess.keys() - self.outputs.keys()):
            raise ValueError(f"`postprocess` names outputs that `outputs` does not declare: {unknown}")
        for name, how in self.postprocess.items():
            size = self.outputs[name].shape[-1:]
            if not size or (how.top is not None and isinstance(size[0], int) and how.top > size[0]):
                raise ValueError(f"`postprocess` of {name} does not fit its last dimension: {self.outputs[name].shape}")
        return self

    @model_validator(mode="after")
    def _dims_are_declared(self) -> Self:
        used = {d for tensor in self.inputs.values() for d in tensor.shape if isinstance(d, str)}
        if missing := sorted(used - self.dims.keys()):
            raise ValueError(f"dimensions used by inputs but absent from `dims`: {missing}")
        if unused := sorted(self.dims.keys() - used):
            raise ValueError(f"`dims` declares dimensions that no input uses: {unused}")
        return self

    @model_validator(mode="after")
    def _shapes_lie_within_dims(self) -> Self:
        for sizes in self.shapes:
            for name, size in sizes.items():
                if name not in self.dims:
                    raise ValueError(f"`shapes` names {name!r}; dimensions: {', '.join(self.dims) or 'none'}")
                dim = self.dims[name]
                if not dim.min <= size <= dim.max:
                    raise ValueError(f"`shapes` has {name} {size}; `dims` declares {dim.min} to {dim.max}")
        return self
