"""`embedrt serve`: an HTTP server for one or more models."""

import logging
import os
from pathlib import Path
from typing import Any

import click

from embedrt.cli import options, streams
from embedrt.errors import MissingDependencyError
from embedrt.server import configuration
from embedrt.server.configuration import Words
from embedrt.server.options import FLAGS, GROUPS, Option

logger = logging.getLogger("embedrt")

_TRUTHS = ("true", "false")
# Rows of the help text that belong to no setting.
_COMMAND = "Command"


class _Switch(click.Option):
    """A flag with a negation, such as --page and --no-page."""


def _parameter(option: Option) -> click.Option:
    """The parameter of a setting; its value is the text, which `configuration` checks as it does those of variables."""
    help_text = f"{option.help}  [{option.details}]" if option.details else option.help
    name = _parameter_name(option)
    if not option.kind.metavar:
        first, *others = option.flags
        return _Switch([name, f"{first}/--no-{first[2:]}", *others], default=None, help=help_text, is_flag=True)
    return click.Option([name, *option.flags], metavar=option.kind.metavar, multiple=option.many, help=help_text)


def _parameter_name(option: Option) -> str:
    return option.name.replace(".", "_")


class _Serve(click.Command):
    """The command, with its options in groups, and switches that take a value as those of other programs do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse words; `--page false` is `--no-page`."""
        switches = {
            flag: parameter.secondary_opts[0]
            for parameter in self.params
            if isinstance(parameter, _Switch)
            for flag in parameter.opts
        }
        words: list[str] = []
        for word in args:
            flag, separator, value = word.partition("=")
            if separator and flag in switches and value in _TRUTHS:
                words.append(flag if value == "true" else switches[flag])
            elif words and words[-1] in switches and word in _TRUTHS:
                words[-1] = words[-1] if word == "true" else switches[words[-1]]
            else:
                words.append(word)
        return super().parse_args(ctx, words)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their groups."""
        flags = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        records = {parameter.name: parameter.get_help_record(ctx) for parameter in flags}
        groups = {
            title: [records.pop(_parameter_name(option)) for option in group if option.flags]
            for title, group in GROUPS.items()
        }
        groups[_COMMAND] = [*records.values()]
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl([row for row in rows if row is not None])


@click.command(
    cls=_Serve,
    params=[_parameter(option) for option in FLAGS.values()],
    epilog=options.examples(
        "embedrt serve all-MiniLM-L6-v2",
        "embedrt serve bge-small=./bundle reranker=./ce --port 80 --api-key-file keys.txt --dtype int8",
        "embedrt serve --config serve.toml --check",
        "MODEL_ID=BAAI/bge-small-en-v1.5 PORT=3000 embedrt serve --host 0.0.0.0",
    ),
)
@click.argument("models", metavar="[[NAME=]MODEL]...", nargs=-1)
@click.option("--config", type=options.FILE, metavar="FILE", help="TOML file with settings, and [[models]].")
@click.option("--check", is_flag=True, help="Print the settled configuration, and exit.")
def serve(models: tuple[str, ...], config: Path | None, check: bool, **given: Any) -> int:
    """Serve models over HTTP, with the APIs of OpenAI, TEI, Cohere, Jina, Ollama and Weaviate.

    MODEL is a bundle folder or a model name, and NAME the name that clients use. Every option is also a variable,
    EMBEDRT_SERVE_PORT for --port, and a key of the file. A flag counts more than a variable, and that more than the
    file. Flags and variables of text-embeddings-inference are accepted: MODEL_ID, PORT, API_KEY, ...

    Options of models apply to all of them; the file has those of each.
    """
    words = Words(models, _texts(given), config)
    settled = configuration.settle(words, os.environ)
    if check:
        for note in settled.notes:
            logger.warning("%s", note)
        streams.require_output()
        print(configuration.shown_as_toml(settled.settings))
        return 0
    try:
        from embedrt.server.serving import run
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "embedrt":
            raise
        raise MissingDependencyError(
            f"{error.name} is not installed; run `pip install 'embedrt[cpu,serve]'`"
        ) from error
    return run(settled.settings, lambda: configuration.settle(words, os.environ).settings, settled.notes)


def _texts(given: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The texts of the flags that were given, by the names of their options."""
    texts: dict[str, tuple[str, ...]] = {}
    for name, option in FLAGS.items():
        value = given[_parameter_name(option)]
        if value is None or value == ():
            continue
        if isinstance(value, bool):
            value = str(value).lower()
        texts[name] = value if isinstance(value, tuple) else (value,)
    return texts
