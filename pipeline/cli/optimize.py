from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from enginery.pipeline.cli.options import File, echo_json, target_option
from enginery.pipeline.cli.stage import chosen_target, run_stage, stage_options_but_output

if TYPE_CHECKING:
    from enginery.pipeline.optimization import Optimized


@click.command("optimize")
@stage_options_but_output
@target_option
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    envvar="ENGINERY_BUILD",
    help="Folder for bundles and the store; with an ONNX file, the file to write.",
)
@click.option(
    "--passes", help="For an ONNX file: run these passes instead, such as default,fuse-group-norm,mine.py:MyPass."
)
@click.option("--prove", type=click.Choice(["off", "end", "each"]), help="Prove nothing, all passes together, or each.")
@click.option(
    "--inputs", "-i", type=File(), multiple=True, help="For an ONNX file: prove on this .npz batch; repeatable."
)
def command(
    recipe: str,
    target: str | None,
    passes: str | None,
    prove: Literal["off", "end", "each"] | None,
    inputs: tuple[Path, ...],
    output: Path,
    **options: Any,
) -> None:
    """Run the graph passes for a target, on a recipe or on any ONNX file.

    With a recipe, prints the folder of the result: `model/model.onnx`, and what each pass changed and refused.

    With an ONNX file, writes the optimized file to --output, which must not exist: one file, or two where the weights
    are large.
    """
    if recipe.lower().endswith(".onnx"):
        _optimize_file(Path(recipe), output, target, passes, prove, inputs, **options)
        return
    if passes is not None or inputs:
        raise click.UsageError("--passes and --inputs go with an ONNX file; a recipe says `graph_passes` and `data`.")
    if output.is_file():
        raise click.UsageError(f"{output} is a file; with a recipe, --output is the folder for the store.")
    result = run_stage(
        lambda line: line.optimize(chosen_target(line, target), prove=prove), recipe=recipe, output=output, **options
    )
    if options["explain"] and not options["as_json"]:
        for entry in json.loads(result.path("passes.json").read_text()):
            _echo_pass(entry)


def _optimize_file(
    model: Path,
    output: Path,
    target: str | None,
    passes: str | None,
    prove: Literal["off", "end", "each"] | None,
    inputs: tuple[Path, ...],
    *,
    to: Path | None,
    trust: bool,
    explain: bool,
    as_json: bool,
) -> None:
    from enginery.pipeline.optimization import optimize_file

    given = click.get_current_context().get_parameter_source("output")
    if to is not None or trust:
        raise click.UsageError("--to and --trust go with a recipe.")
    if given is not click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError(f"Name the file to write: enginery optimize {model} --output OUT.onnx")
    target = target or "onnxruntime-cpu"
    done = optimize_file(model, output, target=target, passes=passes, prove=prove, inputs=inputs)
    if as_json:
        echo_json({"file": str(output), "target": target, **done.to_json()})
        return
    for record in done.records if explain else ():
        _echo_pass(record.to_json())
    for line in _summary(output, target, done):
        click.echo(line)


def _echo_pass(entry: dict[str, Any]) -> None:
    """One pass: what it changed, how exact that was, and what it left and why."""
    worst = max((each["relative"] for each in entry["proof"]), default=None)
    proved = "" if worst is None else f", largest error {worst:.2g} of the output's scale"
    nodes = f"{entry['nodes_before']} -> {entry['nodes_after']} nodes"
    click.echo(f"{entry['spec']}: {entry['changed']} changes, {nodes}{proved}")
    for refusal in entry["refusals"]:
        click.echo(f"  {refusal['node']}: {refusal['reason']}")


def _summary(output: Path, target: str, done: Optimized) -> Iterator[str]:
    first, last = done.records[0], done.records[-1]
    yield f"{output}: {first.nodes_before} -> {last.nodes_after} nodes by {len(done.records)} passes for {target}"
    shapes = f"{done.shapes} set{'s' if done.shapes > 1 else ''} of inputs"
    yield {
        "off": "nothing was proved",
        "end": f"all passes together were proved on {shapes}",
        "each": f"each pass was proved on {shapes}; largest error {done.largest_error:.2g} of the output's scale",
    }[done.prove]
    if done.opinion:
        yield f"ONNX's reference evaluator: {done.opinion}"
    for key, value in done.options.items():
        yield f"open it with {key}={value}, as enginery's engine does"
