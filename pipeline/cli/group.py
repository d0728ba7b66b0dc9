"""A group that imports a command only when it is called, and the boundary where errors become exit codes."""

from __future__ import annotations

import difflib
import importlib
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from enginery.errors import EngineryError
from enginery.pipeline.cli.options import DEBUG

_EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnxscript", "onnx_graphsurgeon", "safetensors", "scipy", "sklearn"), "cpu"),
    **dict.fromkeys(("PIL", "jinja2", "markupsafe", "google", "onnxruntime"), "cpu"),
    **dict.fromkeys(("transformers", "timm", "tokenizers"), "hf"),
}
"""The extra that brings a package, for commands that need more than running a bundle does."""

INTERRUPTED = 130
"""The exit code of a shell's command that Ctrl-C ended."""

_INTERRUPTED = "Interrupted. Finished stages are kept; the same command resumes."


class LazyGroup(click.Group):
    """A group over `{name: module}`; each module calls its click command `command`."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.modules:
            return None
        return importlib.import_module(self.modules[cmd_name]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the whole first sentence of their help, where click would cut it short."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=200)) for name, command in commands if command])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            # click looks for near names among the commands that are loaded, which here are none.
            near = difflib.get_close_matches(name, self.modules, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)


class BoundaryGroup(LazyGroup):
    """The root group: what the library raises on purpose ends here, as one message and an exit code.

    1. An `EngineryError` prints its message and exits with its `exit_code` (1: refused or failed, 2: wrong usage).
    2. An `OSError`, such as a full disk, prints the system's word and the file, and exits with 1.
    3. An absent package that an extra brings prints the command that installs it, and exits with 2.
    4. Ctrl-C prints one line and exits with 130, also where a library made another error of it.
    5. Memory that does not suffice is said in words, and exits with 1.
    6. Anything else is a fault of Enginery, and is called one: the error, its place, and how to see more. Exit code 1.
    7. With `--debug` the traceback of each is printed too. Stages that ended are not run again for it.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EngineryError as error:
            _fail(ctx, error, str(error), error.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click knows them; of a pipe the reader, such as `head`, went away
        except OSError as error:
            if error.strerror is None:
                _fault(ctx, error)
            where = f": {os.fsdecode(error.filename)}" if error.filename is not None else ""
            _fail(ctx, error, f"{error.strerror}{where}", 1)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                _fault(ctx, error)
            _fail(ctx, error, f"This needs {error.name}, which is not installed: pip install 'enginery[{extra}]'", 2)
        except KeyboardInterrupt as error:
            _fail(ctx, error, _INTERRUPTED, INTERRUPTED)
        except MemoryError as error:
            _fail(ctx, error, "The memory of this machine does not suffice. Finished stages are kept.", 1)
        except Exception as error:  # noqa: BLE001 - the boundary: what nobody foresaw
            _fault(ctx, error)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is among what an error came from."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ if error.__cause__ is not None else error.__context__
    return error is not None


def _fault(ctx: click.Context, error: Exception) -> NoReturn:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{'/'.join(Path(frame.filename).parts[-3:])}, line {frame.lineno}"
    more = "" if ctx.meta.get(DEBUG) else "The same command with --debug prints the traceback. "
    words = f"A fault of Enginery: {type(error).__name__}: {error} ({place}). {more}Please report it."
    _fail(ctx, error, words, 1)


def _fail(ctx: click.Context, error: BaseException, message: str, code: int) -> NoReturn:
    if code != INTERRUPTED and _was_interrupted(error):
        message, code = _INTERRUPTED, INTERRUPTED
    if ctx.meta.get(DEBUG):
        click.echo("".join(traceback.format_exception(error)), err=True)
    click.echo(f"Error: {message}", err=True)
    raise click.exceptions.Exit(code) from error
