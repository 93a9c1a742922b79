"""`embedrt rerank`: documents in order of their relevance to a query."""

import json
import sys
from pathlib import Path
from typing import Literal

import click

import embedrt
from embedrt.cli import options, streams
from embedrt.inputs.lines import read_lines

_STDIN = "-"


@click.command(
    epilog=options.examples(
        'embedrt rerank cross-encoder/ms-marco-MiniLM-L6-v2 --query "a question" documents.txt',
        'embedrt rerank ./bundle --query "a question" --top-k 3 < documents.txt',
    )
)
@click.argument("model", metavar="MODEL")
@click.argument("file", metavar="[FILE]", type=options.FILE, default=_STDIN)
@click.option("--query", metavar="TEXT", required=True, help="The query.")
@click.option("--top-k", type=click.IntRange(min=0), metavar="N", help="Print the N best documents.  [default: all]")
@options.device
@options.dtype
@options.threads
@options.gpu_mem_limit
@options.prompt_name
@click.option("--prompt", metavar="TEXT", help="Another prompt to put before the query.")
@click.option(
    "--activation",
    metavar="NAME",
    help="Function after the logits: Sigmoid, Identity, ...  [default: the model's]",
)
@click.option(
    "--on-truncation",
    type=click.Choice(["ignore", "warn", "error"]),
    default="warn",
    show_default=True,
    help="Action for pairs that are longer than the model reads.",
)
def rerank(
    model: str,
    file: Path,
    query: str,
    top_k: int | None,
    device: str | list[str] | None,
    dtype: str | None,
    threads: int | None,
    gpu_mem_limit: str | None,
    prompt_name: str | None,
    prompt: str | None,
    activation: str | None,
    on_truncation: Literal["ignore", "warn", "error"],
) -> None:
    """Rank documents by their relevance to a query.

    MODEL is a bundle folder or a model name. FILE has one document per line, in UTF-8; without it, or with -,
    standard input has them. Each result is printed as one line of JSON, the most relevant first: the number of the
    line, from 0 on, the score, and the document.
    """
    streams.require_output()
    for name, value in (("--query", query), ("--prompt", prompt), ("--prompt-name", prompt_name)):
        streams.decoded(value or "", name)
    documents = read_lines(None if str(file) == _STDIN else file)
    with embedrt.CrossEncoder(
        model, device=device, activation_fn=activation, dtype=dtype, threads=threads, gpu_mem_limit=gpu_mem_limit
    ) as encoder:
        ranked = encoder.rank(
            query,
            documents,
            top_k,
            True,
            prompt_name,
            prompt,
            show_progress_bar=sys.stderr.isatty(),
            on_truncation=on_truncation,
        )
    for entry in ranked:
        print(json.dumps({**entry, "score": round(entry["score"], 6)}, ensure_ascii=False))
