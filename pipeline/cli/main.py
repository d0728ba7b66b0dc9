"""The root command and the table of its commands."""

from __future__ import annotations

import os

import click

from enginery import __version__
from enginery.pipeline.cli.group import BoundaryGroup

# onnxruntime reads this at import; no command may run without it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_NAMES = (
    "build",
    "compress",
    "export",
    "optimize",
    "calibrate",
    "quantize",
    "compile",
    "validate",
    "bench",
    "verify",
    "sign",
    "report",
    "reproduce",
    "store",
    "run",
    "inspect",
    "lint",
    "diff",
    "models",
    "passes",
    "init",
    "schema",
    "doctor",
    "completion",
)
COMMANDS = {name: f"enginery.pipeline.cli.{name}" for name in _NAMES}


@click.group(
    cls=BoundaryGroup,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="enginery")
def cli() -> None:
    """Turn a trained PyTorch or ONNX model into an engine that is shown to answer like the original.

    \b
    enginery build minilm --precision int8   build a bundle, or say why not
    enginery verify build/minilm/...         check a bundle, offline
    enginery init model.onnx                 write a recipe for your own model

    Exit codes: 0 done; 1 a gate refused or a stage failed; 2 wrong usage; 130 interrupted.
    """
