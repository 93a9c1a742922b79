"""`embedrt encode`: texts to vectors."""

import json
import os
import sys
from pathlib import Path
from typing import Literal

import click

import embedrt
from embedrt.cli import options, streams
from embedrt.inputs.lines import read_lines
from embedrt.vectors.files import is_stream, save_matrix

_STDOUT = {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}


@click.command(
    epilog=options.examples(
        'embedrt encode "a text" "another"',
        "embedrt encode - --output vectors.npy < lines.txt",
        'embedrt encode --model ./bundle --normalize "a text"',
    )
)
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@options.model
@options.device
@options.dtype
@options.threads
@options.gpu_mem_limit
@click.option("--output", type=options.FILE, metavar="FILE.npy", help="Write float32 [texts, dim] in NumPy's format.")
@options.prompt_name
@click.option("--prompt", metavar="TEXT", help="Another prompt to put before every text.")
@click.option("--normalize", is_flag=True, help="Scale vectors to length 1.")
@click.option("--truncate-dim", type=int, metavar="N", help="Keep the first N coordinates.")
@click.option(
    "--on-truncation",
    type=click.Choice(["ignore", "warn", "error"]),
    default="warn",
    show_default=True,
    help="Action for texts that are longer than the model reads.",
)
def encode(
    texts: tuple[str, ...],
    model: str | None,
    device: str | list[str] | None,
    dtype: str | None,
    threads: int | None,
    gpu_mem_limit: str | None,
    output: Path | None,
    prompt_name: str | None,
    prompt: str | None,
    normalize: bool,
    truncate_dim: int | None,
    on_truncation: Literal["ignore", "warn", "error"],
) -> None:
    """Turn texts into vectors.

    Without --output, each vector is printed as one line of JSON. A single - reads one text per line from standard
    input, in UTF-8.
    """
    if output is None or str(output) in _STDOUT:
        streams.require_output()
    if output is not None:
        _check(output)
    for name, value in (("--prompt", prompt), ("--prompt-name", prompt_name)):
        streams.decoded(value or "", name)
    arguments = [streams.decoded(text, f"TEXT {i}") for i, text in enumerate(texts, start=1)]
    items = read_lines(None) if arguments == ["-"] else arguments
    embedder = embedrt.Embedder(
        model or embedrt.default_model(), device, dtype=dtype, threads=threads, gpu_mem_limit=gpu_mem_limit
    )
    vectors = embedder.encode(
        items,
        prompt_name,
        prompt,
        show_progress_bar=output is not None and sys.stderr.isatty(),
        normalize_embeddings=normalize,
        truncate_dim=truncate_dim,
        on_truncation=on_truncation,
    )
    if output is None:
        for vector in vectors:
            # str() of a float32 is its shortest decimal; a float64 would print extra digits.
            print(json.dumps([float(str(x)) for x in vector]))
    else:
        save_matrix(output, vectors)
        print(f"{output}: float32 {vectors.shape[0]} x {vectors.shape[1]}", file=sys.stderr)


def _check(output: Path) -> None:
    """Check that the vectors can be written, before the model is loaded."""
    if not output.parent.is_dir():
        raise ValueError(f"--output: {output.parent} is not a folder")
    if output.is_dir():
        raise ValueError(f"--output: expected a file, got the folder {output}")
    folder = Path(os.path.realpath(output)).parent
    if not is_stream(output) and not os.access(folder, os.W_OK):
        raise ValueError(f"--output: the folder {folder} cannot be written to; choose another one")
