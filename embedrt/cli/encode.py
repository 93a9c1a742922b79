"""`embedrt encode`: texts to vectors."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

import embedrt
from embedrt.bundle.manifest import read_manifest
from embedrt.cli import options, streams
from embedrt.hub.resolve import resolve
from embedrt.inputs.lines import read_lines
from embedrt.vectors.files import SUFFIXES, is_stream, save_embeddings, save_matrix

_STDOUT = {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}


@click.command(
    epilog=options.examples(
        'embedrt encode "a text" "another"',
        "embedrt encode - --output vectors.npy < lines.txt",
        'embedrt encode --model ./bundle --normalize "a text"',
        "embedrt encode - --model ./colbert --task document --output vectors.safetensors < lines.txt",
    )
)
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@options.model
@options.device
@options.dtype
@options.threads
@options.gpu_mem_limit
@options.task
@click.option(
    "--output",
    type=options.FILE,
    metavar="FILE.npy",
    help="Write float32 [texts, dim] in NumPy's format. With a multi-vector model, write texts and vectors, as "
    ".safetensors, .npy or .parquet; with a sparse model as .safetensors.",
)
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
    task: str | None,
    output: Path | None,
    prompt_name: str | None,
    prompt: str | None,
    normalize: bool,
    truncate_dim: int | None,
    on_truncation: Literal["ignore", "warn", "error"],
) -> None:
    """Turn texts into vectors: one a text, or with a multi-vector model one a token, or sparse ones.

    Without --output, each text is printed as one line of JSON: its vector, its vectors, or its weights by token. A
    single - reads one text per line from standard input, in UTF-8.
    """
    if output is None or str(output) in _STDOUT:
        streams.require_output()
    if output is not None:
        _check(output)
    for name, value in (("--prompt", prompt), ("--prompt-name", prompt_name)):
        streams.decoded(value or "", name)
    arguments = [streams.decoded(text, f"TEXT {i}") for i, text in enumerate(texts, start=1)]
    items = read_lines(None) if arguments == ["-"] else arguments
    folder = resolve(model or embedrt.default_model())
    kind = read_manifest(folder).task
    if kind == "sparse":
        if normalize or truncate_dim is not None:
            raise ValueError("--normalize and --truncate-dim: a sparse model has neither; leave them out")
        if output is not None and output.suffix != ".safetensors":
            raise ValueError(f"--output: expected a file that ends with .safetensors, got {str(output)!r}")
        sparse = embedrt.SparseEncoder(folder, device, dtype=dtype, threads=threads, gpu_mem_limit=gpu_mem_limit)
        call, chosen = _method(sparse, task)
        shown = output is not None and sys.stderr.isatty()
        found = call(items, prompt_name, prompt, show_progress_bar=shown, on_truncation=on_truncation, **chosen)
        _write_sparse(sparse, items, found, output)
        return
    is_late = kind == "multi-vector"
    if is_late and truncate_dim is not None:
        raise ValueError("--truncate-dim: a multi-vector model has no vectors to truncate; leave it out")
    if is_late and output is not None and output.suffix not in SUFFIXES:
        raise ValueError(f"--output: expected a file that ends with {', '.join(SUFFIXES)}, got {str(output)!r}")
    opened = (embedrt.MultiVectorEncoder if is_late else embedrt.Embedder)(
        folder, device, dtype=dtype, threads=threads, gpu_mem_limit=gpu_mem_limit
    )
    call, chosen = _method(opened, task)
    given = {} if is_late else {"truncate_dim": truncate_dim}
    vectors = call(
        items,
        prompt_name,
        prompt,
        show_progress_bar=output is not None and sys.stderr.isatty(),
        normalize_embeddings=normalize,
        on_truncation=on_truncation,
        **chosen,
        **given,
    )
    if output is None:
        for vector in vectors:
            print(json.dumps(_decimals(vector)))
    elif is_late:
        save_embeddings(output, items, vectors, opened)
        shape = f"{sum(map(len, vectors))} x {opened.manifest.dim}"
        print(f"{output}: float32 {shape} of {len(items)} texts", file=sys.stderr)
    else:
        save_matrix(output, vectors)
        print(f"{output}: float32 {vectors.shape[0]} x {vectors.shape[1]}", file=sys.stderr)


def _write_sparse(
    model: embedrt.SparseEncoder, texts: list[str], vectors: embedrt.SparseVectors, output: Path | None
) -> None:
    """Print the weights of tokens, the largest first, or write texts and sparse vectors to a file."""
    if output is not None:
        save_embeddings(output, texts, vectors, model)
        print(f"{output}: {len(vectors.values)} weights of {vectors.rows} texts", file=sys.stderr)
        return
    for row in vectors:
        order = np.argsort(-row.values, kind="stable")
        weights = {model.vocabulary[row.indices[i]]: float(str(row.values[i])) for i in order}
        print(json.dumps(weights, ensure_ascii=False))


def _method(opened: Any, task: str | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The encode method for a kind of texts, and more arguments for it."""
    if task in {"query", "document"}:
        return getattr(opened, f"encode_{task}"), {}
    return opened.encode, {} if task is None else {"task": task}


def _decimals(values: Any) -> Any:
    """The numbers of an array for JSON; str() of a float32 is its shortest decimal."""
    return [_decimals(row) for row in values] if values.ndim > 1 else [float(str(x)) for x in values]


def _check(output: Path) -> None:
    """Check that the vectors can be written, before the model is loaded."""
    if not output.parent.is_dir():
        raise ValueError(f"--output: {output.parent} is not a folder")
    if output.is_dir():
        raise ValueError(f"--output: expected a file, got the folder {output}")
    folder = Path(os.path.realpath(output)).parent
    if not is_stream(output) and not os.access(folder, os.W_OK):
        raise ValueError(f"--output: the folder {folder} cannot be written to; choose another one")
