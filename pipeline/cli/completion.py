from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from enginery.errors import UsageError
from enginery.pipeline.cli.options import verbosity_options

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@verbosity_options
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    \b
    bash: echo 'eval "$(enginery completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(enginery completion zsh)"' >> ~/.zshrc
    fish: enginery completion fish > ~/.config/fish/completions/enginery.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"click has no completion for {shell!r}. Available: {', '.join(SHELLS)}.")
    root = ctx.find_root()
    click.echo(kind(root.command, {}, "enginery", "_ENGINERY_COMPLETE").source())
