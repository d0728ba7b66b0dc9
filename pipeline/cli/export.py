from __future__ import annotations

import click

from enginery.pipeline.cli.group import LazyGroup

FORMATS = ("onnx", "triton", "oci", "ort")
DEFAULT = "onnx"


class Formats(LazyGroup):
    """`enginery export minilm` means `enginery export onnx minilm`: the first word is a format, or a recipe."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.modules:
            args = [DEFAULT, *args]
        return super().resolve_command(ctx, args)


@click.command(
    "export",
    cls=Formats,
    modules={name: f"enginery.pipeline.cli.export_{name}" for name in FORMATS},
    context_settings={"ignore_unknown_options": True},
)
def command() -> None:
    """Export a recipe's model to ONNX, or a bundle to where it is served.

    \b
    enginery export minilm               the recipe's model as ONNX, run at every shape
    enginery export triton BUNDLE REPO   a model repository for Triton Inference Server
    enginery export oci BUNDLE LAYOUT    an image layout that registries take
    enginery export ort BUNDLE FOLDER    ONNX Runtime's format for mobile devices
    """
