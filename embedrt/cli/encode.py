"""`embedrt encode`: texts to vectors."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

import embedrt
from embedrt.bundle.manifest import read_manifest
from embedrt.cli import options, streams
from embedrt.hub.resolve import resolve
from embedrt.inputs.lines import read_lines
from embedrt.types import Task
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
    form = _form(folder)
    wanted = {"normalize_embeddings": normalize or None, "truncate_dim": truncate_dim}
    given = {name: value for name, value in wanted.items() if value is not None}
    if refused := [name for name in given if name not in form.takes]:
        raise ValueError(f"--{_NAMES[refused[0]]}: a {form.title} has no such option; leave it out")
    if output is not None and form.suffixes and output.suffix not in form.suffixes:
        raise ValueError(f"--output: expected a file that ends with {', '.join(form.suffixes)}, got {str(output)!r}")
    opened = getattr(embedrt, form.opened_by)(folder, device, dtype=dtype, threads=threads, gpu_mem_limit=gpu_mem_limit)
    call, chosen = _method(opened, task)
    vectors = call(
        items,
        prompt_name,
        prompt,
        show_progress_bar=output is not None and sys.stderr.isatty(),
        on_truncation=on_truncation,
        **chosen,
        **given,
    )
    if output is not None:
        print(f"{output}: {form.write(output, items, vectors, opened)}", file=sys.stderr)
        return
    for vector in vectors:
        print(json.dumps(form.shown(vector, opened), ensure_ascii=False))


@dataclass(frozen=True)
class _Form:
    """The form of the vectors that models of a task make.

    Attributes:
        title: The kind of model, for messages.
        opened_by: The name of the public class.
        takes: Arguments of its `encode` that some classes lack.
        suffixes: Endings of the files that the vectors are written to; empty for any.
        shown: The vector of a text as JSON.
        write: Writes texts and vectors to a file, and returns what is there.
    """

    title: str
    opened_by: str
    takes: frozenset[str]
    suffixes: tuple[str, ...]
    shown: Callable[[Any, Any], Any]
    write: Callable[[Path, list[str], Any, Any], str]


def _form(folder: Path) -> _Form:
    """The form of a bundle.

    Raises:
        ValueError: Its model makes no vectors.
    """
    task = read_manifest(folder).task
    if task not in _FORMS:
        raise ValueError(f"{folder}: the model scores pairs of texts; use `embedrt rerank`")
    return _FORMS[task]


def _decimals(values: Any, _: Any) -> Any:
    """The numbers of an array for JSON; str() of a float32 is its shortest decimal."""
    return [_decimals(row, _) for row in values] if values.ndim > 1 else [float(str(x)) for x in values]


def _weights(row: embedrt.SparseVectors, model: "embedrt.SparseEncoder") -> dict[str, float]:
    """Weights by token, the largest first."""
    order = np.argsort(-row.values, kind="stable")
    return {model.vocabulary[row.indices[i]]: float(str(row.values[i])) for i in order}


def _write_matrix(output: Path, _: list[str], vectors: Any, __: Any) -> str:
    save_matrix(output, vectors)
    return f"float32 {vectors.shape[0]} x {vectors.shape[1]}"


def _write_sparse(output: Path, texts: list[str], vectors: Any, model: Any) -> str:
    save_embeddings(output, texts, vectors, model)
    return f"{len(vectors.values)} weights of {vectors.rows} texts"


def _write_several(output: Path, texts: list[str], vectors: Any, model: Any) -> str:
    save_embeddings(output, texts, vectors, model)
    return f"float32 {sum(map(len, vectors))} x {model.manifest.dim} of {len(texts)} texts"


_NAMES = {"normalize_embeddings": "normalize", "truncate_dim": "truncate-dim"}
_FORMS: dict[Task, _Form] = {
    "embed": _Form("model of sentence embeddings", "Embedder", frozenset(_NAMES), (), _decimals, _write_matrix),
    "sparse": _Form("sparse model", "SparseEncoder", frozenset(), (".safetensors",), _weights, _write_sparse),
    "multi-vector": _Form(
        "multi-vector model",
        "MultiVectorEncoder",
        frozenset({"normalize_embeddings"}),
        SUFFIXES,
        _decimals,
        _write_several,
    ),
}
"""By task."""


def _method(opened: Any, task: str | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The encode method for a kind of texts, and more arguments for it."""
    if task in {"query", "document"}:
        return getattr(opened, f"encode_{task}"), {}
    return opened.encode, {} if task is None else {"task": task}


def _check(output: Path) -> None:
    """Check that the vectors can be written, before the model is loaded."""
    if not output.parent.is_dir():
        raise ValueError(f"--output: {output.parent} is not a folder")
    if output.is_dir():
        raise ValueError(f"--output: expected a file, got the folder {output}")
    folder = Path(os.path.realpath(output)).parent
    if not is_stream(output) and not os.access(folder, os.W_OK):
        raise ValueError(f"--output: the folder {folder} cannot be written to; choose another one")
