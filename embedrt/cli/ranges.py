"""`embedrt ranges`: measurement of the ranges for int8 vectors."""

import sys
from pathlib import Path

import click

import embedrt
from embedrt.cli import options, streams
from embedrt.inputs.lines import read_lines


@click.command(
    epilog=options.examples(
        "embedrt ranges bundle/ --texts lines.txt",
        "embedrt ranges org/model --texts queries.txt --prompt-name query --limit 10000",
    )
)
@options.bundle
@options.required_texts
@options.prompt_name
@options.task
@click.option("--limit", type=int, metavar="N", help="Use the first N lines only.")
@options.device
@options.threads
@options.gpu_mem_limit
def ranges(
    bundle: str,
    texts: Path,
    prompt_name: str | None,
    task: str | None,
    limit: int | None,
    device: str | list[str] | None,
    threads: int | None,
    gpu_mem_limit: str | None,
) -> None:
    """Measure the ranges for int8 vectors.

    The range of every coordinate over these texts is stored in the bundle, so that int8 and uint8 vectors do not
    depend on the call. Use at least 100 texts like those to encode later. Nothing else in the bundle changes.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: expected a positive integer, got {limit}")
    items = read_lines(texts, limit)
    folder = embedrt.ranges(
        bundle,
        items,
        prompt_name,
        task=task,
        device=device,
        threads=threads,
        gpu_mem_limit=gpu_mem_limit,
        show_progress_bar=sys.stderr.isatty(),
    )
    streams.note(f"{folder}: ranges measured over {len(items)} texts")
