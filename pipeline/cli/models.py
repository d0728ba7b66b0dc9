from __future__ import annotations

import click

from enginery.pipeline.cli.options import echo_json, json_option, verbosity_options


@click.command("models")
@json_option
@verbosity_options
def command(as_json: bool) -> None:
    """List the built-in recipes."""
    from enginery.pipeline.recipe.file import builtin_recipes, load_recipe

    recipes = {name: (path, load_recipe(name).recipe) for name, path in builtin_recipes().items()}
    if as_json:
        echo_json(
            [
                {
                    "name": name,
                    "description": recipe.description,
                    "precision": recipe.precision.mode.value,
                    "path": str(path),
                }
                for name, (path, recipe) in recipes.items()
            ]
        )
        return
    width = max(map(len, recipes), default=0)
    for name, (_, recipe) in recipes.items():
        click.echo(f"{name:<{width}}  {recipe.description}")
