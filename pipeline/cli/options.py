"""Options that several commands share, each defined once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

MODES = ("fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weight", "int4-weight", "auto")
"""The values of `recipe.Mode`, repeated here so that `--help` need not load pydantic; a test compares them."""

VERBOSITY = "enginery.verbosity"
DEBUG = "enginery.debug"

F = TypeVar("F", bound=Callable[..., Any])


def complete_recipe(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from enginery.pipeline.recipe.file import builtin_recipes

    names = [CompletionItem(name) for name in builtin_recipes() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def complete_target(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from enginery.engines import targets

    return [CompletionItem(name) for name in targets() if name.startswith(incomplete)]


class Folder(click.Path):
    """A folder's path. Whether it exists is the library's question, which answers with what to do."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)


class File(click.Path):
    """A file's path."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)


recipe_argument = click.argument("recipe", shell_complete=complete_recipe)
bundle_argument = click.argument("bundle", type=Folder())
target_option = click.option(
    "--target", "-t", shell_complete=complete_target, help="Build for this target (default: the recipe's targets)."
)
precision_option = click.option(
    "--precision", "-p", type=click.Choice(MODES), help="Build in this precision (default: the recipe's)."
)
statistics_option = click.option(
    "--statistics", type=Folder(), help="Use this folder of statistics instead of calibrating."
)
build_folder_option = click.option(
    "--output",
    "-o",
    type=Folder(),
    default=Path("build"),
    show_default=True,
    envvar="ENGINERY_BUILD",
    help="Folder for bundles and the store.",
)
trust_option = click.option(
    "--trust", is_flag=True, help="Load a source whose loading can execute code, such as a .pt2 archive."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, for programs.")
public_key_option = click.option(
    "--public-key",
    type=File(),
    envvar="ENGINERY_PUBLIC_KEY",
    help="Demand a signature that this key (a PEM file) verifies.",
)


def key_option(*, required: bool) -> Callable[[F], F]:
    """`--key`, the key that signs; `ENGINERY_KEY_PASSWORD` holds the password of an encrypted one."""
    return click.option(
        "--key",
        type=File(),
        required=required,
        envvar="ENGINERY_KEY",
        help="The private key: a PEM file with an elliptic-curve key.",
    )


builder_option = click.option(
    "--builder", help="A URI that names who built, for the provenance (default: somebody's machine)."
)
explain_option = click.option("--explain", is_flag=True, help="Say why each stage ran or was reused.")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of the runtime (default: as the bundle was built)."
)


def _engine_options(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as spinning=false.")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"The value of {name!r} is {value!r}, which is no YAML.") from error
    return options


engine_option = click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_engine_options,
    help="An option of the engine, as under `engine` in a recipe; repeat for several.",
)


def verbosity_options(function: F) -> F:
    """Add -v, -q and --debug. Their values go into the context, where the terminal and the error boundary look."""
    for decorate in (
        click.option(
            "--debug",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_set_debug,
            help="Show tracebacks of errors.",
        ),
        click.option(
            "--quiet", "-q", count=True, expose_value=False, callback=_quieter, help="Print results and errors only."
        ),
        click.option(
            "--verbose", "-v", count=True, expose_value=False, callback=_louder, help="Print each stage and its reason."
        ),
    ):
        function = decorate(function)
    return function


def _set_debug(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
    ctx.meta[DEBUG] = value


def _louder(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    ctx.meta[VERBOSITY] = ctx.meta.get(VERBOSITY, 0) + value


def _quieter(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    ctx.meta[VERBOSITY] = ctx.meta.get(VERBOSITY, 0) - value


def echo_json(document: Any) -> None:
    """Print one JSON document; keys keep their order, floats their shortest exact form."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
