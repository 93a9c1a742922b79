"""The entry point `embedrt`: command lookup, and exit statuses for results and errors."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TextIO

import click

from embedrt._version import __version__
from embedrt.cli import streams
from embedrt.errors import EmbedrtError

COMMANDS = {
    "export": "embedrt.cli.export:export",
    "encode": "embedrt.cli.encode:encode",
    "rerank": "embedrt.cli.rerank:rerank",
    "serve": "embedrt.cli.serve:serve",
    "bulk": "embedrt.cli.bulk:bulk",
    "info": "embedrt.cli.info:info",
    "verify": "embedrt.cli.verify:verify",
    "diff": "embedrt.cli.diff:diff",
    "ranges": "embedrt.cli.ranges:ranges",
    "tune": "embedrt.cli.tune:tune",
    "bench": "embedrt.cli.bench:bench",
    "list": "embedrt.cli.store:list_bundles",
    "remove": "embedrt.cli.store:remove",
    "doctor": "embedrt.cli.doctor:doctor",
}
"""The module and function of every command by name."""

BROKEN_PIPE, INTERRUPTED = 141, 130


class Commands(click.Group):
    """The group of all commands, each imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The command names in the order of the help text."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; return None if the name is unknown."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of an argument list, or fail with suggestions."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> int:
        """Run a command and return its exit status."""
        try:
            status: int | None = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # `embedrt encode ... | head`
            _drop(sys.stdout)
            return BROKEN_PIPE
        except KeyboardInterrupt:
            _tell("interrupted")
            return INTERRUPTED
        except (EmbedrtError, ValueError, OSError) as error:
            return _failed(error)
        return status or 0


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`embedrt COMMAND --help` has examples.",
)
@click.version_option(__version__, message="embedrt %(version)s")
def program() -> None:
    """Sentence embeddings without PyTorch: export a model once, then encode."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 for an error with a one-line message; 2 for a usage error; 130 if interrupted; 141 for a
        broken pipe.
    """
    with streams.open_streams():
        log, handler = logging.getLogger("embedrt"), logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("embedrt: %(message)s"))
        log.addHandler(handler)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                status: int = program.main(arguments, prog_name="embedrt", standalone_mode=False)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except click.Abort:  # interrupted before a command began
            return INTERRUPTED
        except (ValueError, OSError) as error:  # of a help text that cannot be written
            return _failed(error)
        finally:
            log.removeHandler(handler)
        return status


def _failed(error: Exception) -> int:
    """Report an error, and return its exit status."""
    _tell(str(error))
    try:
        sys.stdout.flush()
    except OSError:  # a full disk
        _drop(sys.stdout)
    return 1


def _tell(message: str) -> None:
    """Write a message to standard error, which may be as full or closed as standard output."""
    try:
        print(f"embedrt: {message}", file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Discard what is left of an output; otherwise Python would write it at exit, and fail with its own exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _tell(str(message))
