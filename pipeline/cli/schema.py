from __future__ import annotations

import click

from enginery.pipeline.cli.options import echo_json, verbosity_options


@click.command("schema")
@verbosity_options
def command() -> None:
    """Print the JSON Schema of recipes."""
    from enginery.pipeline.recipe import Recipe

    schema = Recipe.model_json_schema(by_alias=True)
    echo_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
