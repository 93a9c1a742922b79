"""`embedrt bulk`: files of texts to files of vectors, and `check` and `merge` of what it made."""

import re
import signal
import sys
from pathlib import Path
from typing import Any

import click

import embedrt
from embedrt.cli import options, streams


class _Bulk(click.Command):
    """The command; `check` and `merge` as its first word are commands of their own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Make the context of the command that the first word names."""
        other = _OTHERS.get(args[0]) if args else None
        if other is None:
            return super().make_context(info_name, args, parent, **extra)
        return other.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)


def _shard(value: str | None) -> tuple[int, int] | None:
    """The two numbers of a shard such as 3/8; the job checks their range."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value)
    if found is None:
        raise click.BadParameter(f"expected I/N, such as 3/8, got {value!r}")
    return int(found[1]), int(found[2])


_ON_ERROR = ("fail", "null", "skip")
_VECTOR_TYPES = ("float32", "float16", "int8", "uint8", "binary", "ubinary")
_LONG_TEXTS = ("truncate", "error", "mean", "chunks")
_PART_FORMATS = ("parquet", "arrow", "jsonl", "npy", "lance")


@click.command(
    cls=_Bulk,
    epilog=options.examples(
        'embedrt bulk in/*.parquet out/ --text title --text body --template "{title}\\n{body}"',
        "embedrt bulk in/ out/ --model BAAI/bge-small-en-v1.5 --shard 3/8",
        "embedrt bulk s3://bucket/articles/ out/ --text body --keep id --vector-type float16",
        "embedrt bulk in/ out/ --engine ray --address auto --workers 16",
        "embedrt bulk in/ out/ --id id --to 'lancedb:///data/lance?table=articles'",
        "embedrt bulk check out/",
        "embedrt bulk merge out/ vectors.parquet",
    ),
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("target", metavar="TARGET", type=options.FILE)
@options.model
@click.option("--text", multiple=True, metavar="COLUMN", help="Text column; several with --template, or for pairs.")
@click.option("--template", metavar="TEXT", help='Text with columns as fields, such as "{title}\\n{body}".')
@click.option("--id", "id_", metavar="COLUMN", help="Column with unique ids.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Column of the source to keep.  [default: all]")
@click.option("--keep-none", is_flag=True, help="Keep no column of the source, but for --id.")
@click.option("--source-format", metavar="FORMAT", help="Format of the source.  [default: by the endings of names]")
@click.option("--vector", metavar="COLUMN", default="embedding", show_default=True, help="Column for the result.")
@click.option("--vector-type", type=click.Choice(_VECTOR_TYPES), default="float32", show_default=True)
@click.option("--plain-lists", is_flag=True, help="Write lists instead of fixed-size lists, which some readers lack.")
@click.option("--dim", type=int, metavar="N", help="Keep the first N coordinates.")
@click.option("--normalize", is_flag=True, help="Scale vectors to length 1.")
@options.prompt_name
@click.option("--prompt", metavar="TEXT", help="Another prompt to put before every text.")
@options.task
@click.option(
    "--long-texts",
    type=click.Choice(_LONG_TEXTS),
    default="truncate",
    show_default=True,
    help="Truncate long texts, end with an error, take the mean of their windows, or write a row for each window.",
)
@click.option("--max-seq-length", type=int, metavar="N", help="Maximum tokens of a text.  [default: the model's]")
@click.option(
    "--on-error",
    type=click.Choice(_ON_ERROR),
    default="fail",
    show_default=True,
    help="End at a row without a result, write a null vector, or leave the row out; the last two list such rows in "
    "TARGET/_job/errors.jsonl.",
)
@click.option("--with-tokens", is_flag=True, help='Add the columns "n_tokens" and "truncated".')
@click.option("--part-format", type=click.Choice(_PART_FORMATS), default="parquet", show_default=True)
@click.option("--part-rows", type=int, metavar="N", default=16384, show_default=True, help="Rows of a part, at most.")
@click.option(
    "--shard",
    metavar="I/N",
    callback=lambda context, option, value: _shard(value),
    help="Make every N-th part from the I-th on, I from 1 to N.",
)
@click.option(
    "--dedupe",
    type=click.Choice(("none", "window", "all")),
    default="window",
    show_default=True,
    help="Encode equal texts of a part once, or all of the job by a table on disk.",
)
@click.option("--cache", type=options.FILE, metavar="FOLDER", help="Keep results by text, for jobs to come.")
@click.option("--restart", is_flag=True, help="Start over if the source or an option was changed.")
@click.option("--json-log", is_flag=True, help="Write every part as a line of JSON to standard error.")
@click.option("--device", metavar="DEVICE", help="As in `embedrt encode`.  [default: auto]")
@options.dtype
@options.threads
@click.option("--max-tokens", type=int, metavar="N", help="Token budget of a batch.  [default: by device]")
@click.option("--local-files-only", is_flag=True, help="Never touch the network.")
@click.option("--engine", type=click.Choice(("local", "ray", "spark")), default="local", show_default=True)
@click.option("--address", metavar="ADDRESS", help="Address of the cluster, as the engine takes it.")
@click.option("--workers", type=int, metavar="N", help="Workers of the engine.")
@click.option(
    "--engine-option", "engine_options", multiple=True, metavar="NAME=VALUE", help="Such as gpus=1, cpus=4 or ship=1."
)
@click.option("--to", "urls", multiple=True, metavar="URL", help="Write the parts to a vector database as well.")
def bulk(
    sources: tuple[str, ...],
    target: Path,
    model: str | None,
    text: tuple[str, ...],
    template: str | None,
    id_: str | None,
    keep: tuple[str, ...],
    keep_none: bool,
    source_format: str | None,
    plain_lists: bool,
    address: str | None,
    workers: int | None,
    engine_options: tuple[str, ...],
    urls: tuple[str, ...],
    **given: Any,
) -> int:
    """Encode the texts of files into files of vectors. Run the same command again to resume.

    SOURCE is a file, a folder, a glob pattern or a URL, or - for standard input. TARGET is a folder for the parts,
    one for a range of rows. Each is there whole or not at all, and `TARGET/_job` has what resumes the job. SIGINT and
    SIGTERM end the job after the part in progress.

    --to writes the rows of finished parts to a table: lancedb:///FOLDER?table=NAME, qdrant://HOST?table=NAME,
    chroma://HOST?table=NAME or pgvector://HOST/DATABASE?table=NAME. Rows with the same ids are replaced.

    `embedrt bulk check TARGET` checks every part by its hash, and `embedrt bulk merge TARGET FILE` joins them.
    """
    from embedrt.bulk.databases.loading import load
    from embedrt.bulk.driver import run_job
    from embedrt.bulk.names import without_secrets
    from embedrt.bulk.options import Course, Meaning, ModelChoice

    named = {"--template": template or "", "--prompt": given["prompt"] or "", "--vector": given["vector"]}
    for name, value in [*named.items(), *(("--text", column) for column in text)]:
        streams.decoded(value, name)
    if keep and keep_none:
        raise ValueError("--keep: expected columns or --keep-none, got both; leave one out")
    meaning = Meaning(
        text=text,
        template=None if template is None else template.replace("\\n", "\n"),  # shells leave the two characters
        id=id_,
        keep=() if keep_none else keep or None,
        fixed_size=not plain_lists,
        **{name: given[name] for name in _MEANING},
    )
    engine = {"address": address, "workers": workers, **dict(map(_named, engine_options))}
    course = Course(
        cache=None if given["cache"] is None else str(given["cache"]),
        engine_options={name: value for name, value in engine.items() if value is not None},
        **{name: given[name] for name in ("shard", "dedupe", "restart", "json_log", "engine")},
    )
    choice = ModelChoice(model or embedrt.default_model(), **{name: given[name] for name in _MODEL})
    report = run_job(sources, target, choice, meaning, course, source_format)
    facts = report.done
    streams.note(
        f"{target}: {report.parts} of {report.units} parts, {facts.rows} rows, {facts.tokens} tokens, "
        f"{facts.truncated} truncated, {facts.duplicates} duplicate, {facts.failed} failed"
    )
    if report.stopped is None:
        for url in urls:
            loaded = load(target, url)
            streams.note(f"{without_secrets(url)}: {loaded.parts} of {loaded.units} parts, {loaded.rows} rows written")
        return 0
    name = signal.Signals(report.stopped).name
    print(f"embedrt: ended by {name}; run the same command again to resume", file=sys.stderr)
    return 128 + report.stopped


def _named(option: str) -> tuple[str, str]:
    """Split an option of the engine.

    Raises:
        ValueError: It has no value.
    """
    name, sign, value = option.partition("=")
    if not sign:
        raise ValueError(f"--engine-option: expected NAME=VALUE, got {option!r}")
    return name, value


_MEANING = (
    "vector",
    "vector_type",
    "dim",
    "normalize",
    "prompt_name",
    "prompt",
    "task",
    "long_texts",
    "on_error",
    "with_tokens",
    "part_format",
    "part_rows",
)
_MODEL = ("device", "dtype", "threads", "max_tokens", "max_seq_length", "local_files_only")


@click.command()
@click.argument("target", metavar="TARGET", type=options.FILE)
def check(target: Path) -> int:
    """Check every part of a bulk job by its hash.

    The exit status is 0 if every row of the source is in one whole part, or has an error in
    TARGET/_job/errors.jsonl.
    """
    from embedrt.bulk.checking import check as check_job

    found = check_job(target)
    streams.note(f"{target}: {found.summary}")
    return 0 if found.is_whole else 1


@click.command()
@click.argument("target", metavar="TARGET", type=options.FILE)
@click.argument("output", metavar="FILE", type=options.FILE)
def merge(target: Path, output: Path) -> None:
    """Join the parts of a bulk job in one file, in order.

    The ending of FILE names the format: .parquet, .arrow, .jsonl or .npy.
    """
    from embedrt.bulk.merging import merge as merge_job

    streams.note(f"{merge_job(target, output)}: written")


_OTHERS: dict[str, click.Command] = {"check": check, "merge": merge}
