"""What the commands of single stages share: they run the line up to a stage and say where its result lies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from enginery.errors import UsageError
from enginery.pipeline.cli.options import (
    Folder,
    build_folder_option,
    echo_json,
    explain_option,
    json_option,
    recipe_argument,
    trust_option,
    verbosity_options,
)
from enginery.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from enginery.pipeline.line import Line
    from enginery.pipeline.recipe import Precision
    from enginery.pipeline.store import Result

F = TypeVar("F", bound=Callable[..., Any])

to_option = click.option("--to", type=Folder(), help="Copy the result into this new folder.")


def stage_options(function: F) -> F:
    """Add what every command of a stage takes; `run_stage` receives it."""
    return stage_options_but_output(build_folder_option(function))


def stage_options_but_recipe(function: F) -> F:
    """The same for a command whose arguments are its own."""
    for decorate in (verbosity_options, json_option, explain_option, trust_option, to_option, build_folder_option):
        function = decorate(function)
    return function


def stage_options_but_output(function: F) -> F:
    """The same for a command whose --output is its own."""
    for decorate in (verbosity_options, json_option, explain_option, trust_option, to_option, recipe_argument):
        function = decorate(function)
    return function


@contextmanager
def open_line(recipe: str, output: Path, *, trust: bool, explain: bool, **line_options: Any) -> Generator[Line]:
    """The line of a recipe's stages, with the terminal as its listener."""
    from enginery.pipeline.line import Line
    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.store import Store

    with Terminal.from_context(explain=explain) as terminal:
        yield Line(load_recipe(recipe), Store.beside(output), terminal, trust=trust, **line_options)


def run_stage(
    obtain: Callable[[Line], Result],
    *,
    recipe: str,
    output: Path,
    to: Path | None,
    trust: bool,
    explain: bool,
    as_json: bool,
    **line_options: Any,
) -> Result:
    """Obtain one stage's result and print where it lies."""
    if to is not None and to.exists():
        raise UsageError(f"{to} exists. Name a new folder with --to, or remove it.")
    with open_line(recipe, output, trust=trust, explain=explain, **line_options) as line:
        result = obtain(line)
    folder = result.folder
    if to is not None:
        result.verify()
        _copy(result.folder, to)
        folder = to
    if as_json:
        echo_json(
            {
                "stage": result.stage.stage,
                "of": result.stage.label,
                "folder": str(folder),
                "digest": result.digest,
                "reused": result.reused,
                "why": result.why,
                "seconds": result.seconds,
                "files": dict(result.files),
            }
        )
    else:
        click.echo(folder)
    return result


def _copy(source: Path, target: Path) -> None:
    """Copy a folder so that `target` is whole or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        fresh = Path(temporary) / "copy"
        shutil.copytree(source, fresh)
        fresh.rename(target)


def chosen_target(line: Line, target: str | None) -> str:
    """The target that was asked for, or the recipe's first."""
    from enginery.pipeline.build import choose_target

    return choose_target(line.recipe, target)


def chosen_precision(line: Line, mode: str | None) -> Precision:
    """The recipe's precision, with another mode where one was asked for."""
    from enginery.pipeline.build import choose_precision

    return choose_precision(line.recipe, mode)
