"""`export`: source -> spec -> graph -> bundle -> proof -> published, in a straight line."""

import dataclasses
import hashlib
import json
import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import embedrt
from embedrt.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    Route,
    read_manifest,
    record_files,
    write_manifest,
)
from embedrt.bundle.reports import QualityReport
from embedrt.errors import BundleError, ExportError, UnsupportedModelError
from embedrt.hub import local as store
from embedrt.run.runner import Runner
from embedrt.verify.parity import compare, judge, save_reference
from embedrt_export.dtypes.int8 import quantize as int8
from embedrt_export.dtypes.int8.quantize import PRECISION as INT8
from embedrt_export.dtypes.int8.texts import Texts, read_texts
from embedrt_export.families import is_native
from embedrt_export.graph.data_file import DataFile
from embedrt_export.options import ExportOptions, Wanted
from embedrt_export.proof.reference import ReferenceKind, find_reference
from embedrt_export.proof.texts import parity_texts
from embedrt_export.routes.route import DATA, PRECISION, BuiltRoute, build_route
from embedrt_export.source.decide import Decisions, decide
from embedrt_export.source.files import check_files, copy_config
from embedrt_export.source.locate import Located, locate
from embedrt_export.source.modules import Transformer
from embedrt_export.source.repo import ModelSpec, read_repo

logger = logging.getLogger("embedrt.export")

# Configs for other tools; the runtime reads none of them.
_COPIED = (
    "config.json",
    "modules.json",
    "sentence_*_config.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
    "special_tokens_map.json",
    "[0-9]_*/*config.json",
)


def export(
    source: str | Path,
    output: str | Path | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    task: str | None = None,
    precision: str | Sequence[str] = PRECISION,
    calibrate: str | Path | None = None,
    overwrite: bool = False,
    via: Wanted = "auto",
    onnx_file: str | None = None,
    reference: ReferenceKind = "auto",
) -> Path:
    """Turns a model into a bundle, without torch, and proves that it computes the same vectors.

    Args:
        source: A hub id, a local model folder, or `package:NAME` for an installed Python package that carries one.
        output: The bundle's folder; None puts it into the local store under its name.
        name: The bundle's name; None takes the hub id, or the name of the folder or package.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        task: For models that have an adapter for each task: the one to put into the weights; None leaves them out.
        precision: "fp32", which is in every bundle, or "fp32,int8" (also "int8") for a graph in 8 bits beside it.
        calibrate: A file with texts to make int8 with, one a line; None takes embedrt's own, in many languages.
        overwrite: Replace a bundle that is there already.
        via: The way to the graph: "native" builds it from config and safetensors; "onnx" takes an ONNX file of the
            repo (`onnx/model.onnx` or `model.onnx`) and adds the modules after the transformer; "optimum" has
            optimum-onnx make that file first, with torch, in another process; "auto" takes the first that fits.
        onnx_file: Another ONNX file of the repo, such as "onnx/model_O3.onnx"; it must be a float32 model.
        reference: What the vectors are compared with: "sentence-transformers" on this machine, "golden" vectors that
            embedrt has of this very model, or "onnx", the same graph in onnx's own evaluator. "auto" takes the first
            of these that is there.

    Returns:
        The bundle's folder. It exists whole and proven, or not at all.

    Raises:
        ModelNotFoundError: The source is nowhere.
        UnsupportedModelError: The model uses something that embedrt does not know; the message names it.
        ExportError: A file of the model is missing or damaged.
        ParityError: The bundle's vectors differ from the reference.
        QualityError: The vectors in int8 are too far from those in fp32.
        BundleError: Something else is where the bundle should go.
        MissingDependencyError: The way is "optimum", and optimum-onnx is not installed.
        ValueError: `via` is unknown, or does not fit `onnx_file`; `precision` is unknown, or needs no calibration.
    """
    options = ExportOptions(via, onnx_file, task)
    texts = _calibration(precision, calibrate)
    target = None if output is None else Path(output).expanduser()
    if target is not None and target.exists():
        _require_bundle(target, overwrite=overwrite)
    located = locate(source, revision, token)
    name = located.name if name is None else name
    target = store.stored_path(name, revision) if target is None else target
    check_files(located.folder)
    spec = read_repo(located.folder, is_local=located.source.kind != "hub", token=token)
    logger.info("%s: %s in %s", name, _chains(spec), located.folder)
    with store.staging(target) as folder:
        manifest = _write_bundle(folder, located, spec, name, decide(spec, located, options, token))
        manifest = _prove(folder, manifest, spec, reference)
        if texts is not None:
            manifest = _add_int8(folder, manifest, texts)
        write_manifest(folder, manifest)
        read_manifest(folder)  # refuses here what it would refuse in every reader
        store.publish(folder, target, overwrite=overwrite)
        logger.info("done: %s", target)
    return target


def _calibration(precision: str | Sequence[str], calibrate: str | Path | None) -> Texts | None:
    """The texts to make int8 with, if it is wanted."""
    wanted = precision.split(",") if isinstance(precision, str) else list(precision)
    if not wanted:
        raise ValueError(f"precision: expected {PRECISION}, {INT8} or both, got none")
    if unknown := [name for name in wanted if name not in {PRECISION, INT8}]:
        raise ValueError(f"precision: {unknown[0]!r} is unknown; known: {PRECISION}, {INT8}")
    if INT8 in wanted:
        return read_texts(None if calibrate is None else Path(calibrate))
    if calibrate is not None:
        raise ValueError(f"calibrate: only {INT8} is made with texts; add precision={INT8!r}, or leave calibrate out")
    return None


def _require_bundle(target: Path, *, overwrite: bool) -> None:
    """Fails before the work where `publish` would fail after it, or would delete what no export has made."""
    is_empty = target.is_dir() and not any(target.iterdir())
    if not (target / MANIFEST).is_file() and not (overwrite and is_empty):
        raise BundleError(f"{target} exists and is not a bundle; choose another folder, or delete it first")


def _chains(spec: ModelSpec) -> str:
    return ", ".join(" > ".join(part.kind for part in chain) for chain in spec.chains.values())


def _write_bundle(folder: Path, located: Located, spec: ModelSpec, name: str, decisions: Decisions) -> Manifest:
    """Writes graphs, tokenizers and configs; the manifest lacks the proof."""
    (folder / "onnx").mkdir()
    with DataFile(folder / DATA) as data:
        built = {route: build_route(folder, data, route, chain, decisions) for route, chain in spec.chains.items()}
    routes = {route: one.record for route, one in built.items()}
    written = {file for route in routes.values() for file in (route.tokenizer, *route.graphs[PRECISION].files)}
    dim = _common_dim(built)
    if spec.truncate_dim is not None and not 1 <= spec.truncate_dim <= dim:
        raise ExportError(
            f"config_sentence_transformers.json: truncate_dim {spec.truncate_dim} is not within 1 to {dim}"
        )
    identity: dict[str, Any] = {"routes": {route: one.identity for route, one in built.items()}, "tasks": spec.tasks}
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        source=located.source,
        dim=dim,
        routes=routes,
        tasks=spec.tasks,
        prompts=spec.prompts,
        default_prompt_name=spec.default_prompt_name,
        truncate_dim=spec.truncate_dim,
        similarity_fn_name=spec.similarity_fn_name,
        files=record_files(folder, [*written - {DATA}, *_copy_configs(spec, folder)]) | {DATA: data.record},
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        vector_ranges=None,
        made_with={
            "embedrt": embedrt.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "onnx", "safetensors", "tokenizers")},
        },
    )


def _common_dim(built: dict[str, BuiltRoute]) -> int:
    """The width of all routes' vectors; they are compared with each other, so it must be one."""
    dims = {route: one.dim for route, one in built.items()}
    if len(set(dims.values())) > 1:
        shown = ", ".join(f"{route}: {dim}" for route, dim in dims.items())
        raise UnsupportedModelError(f"the routes make vectors of different widths, which cannot be compared: {shown}")
    return next(iter(dims.values()))


def _copy_configs(spec: ModelSpec, folder: Path) -> list[str]:
    """Copies the JSON files that other tools read, at the places where they expect them."""
    copied = []
    for path in sorted(path for pattern in _COPIED for path in spec.folder.glob(pattern)):
        name = path.relative_to(spec.folder).as_posix()
        if copy_config(spec.folder, name, folder):
            copied.append(name)
        else:
            logger.warning("%s is a link that leads out of the model folder, and is not copied into the bundle", name)
    return copied


def _prove(folder: Path, manifest: Manifest, spec: ModelSpec, kind: ReferenceKind) -> Manifest:
    """Loads every route with the runtime, compares it with the reference, and adds references and reports."""
    proven, files = {}, dict(manifest.files)
    for name, route in manifest.routes.items():
        proven[name] = _prove_route(folder, manifest, spec, name, route, kind)
        files |= record_files(folder, [route.parity_texts, route.parity_vectors])
    return dataclasses.replace(manifest, routes=proven, files=files)


def _prove_route(
    folder: Path, manifest: Manifest, spec: ModelSpec, name: str, route: Route, kind: ReferenceKind
) -> Route:
    """Compares both graphs of a route with the reference; the report is of the one that a processor runs."""
    runner = Runner(folder, route, manifest, "cpu", proving=True)
    texts = parity_texts(route.max_seq_length)
    first = spec.chains[name][0].settings
    native = not isinstance(first, Transformer) or is_native(first.config, first.architecture)
    reference = find_reference(kind, spec.folder, manifest, runner, manifest.task_of(name), texts, native)
    logger.info("comparing %d texts with %s", len(texts), reference.name)
    report = compare(runner, texts, reference.vectors, reference.name, independent=reference.independent)
    graph = route.graphs[PRECISION]
    if graph.cpu is not None:
        portable = dataclasses.replace(route, graphs={PRECISION: dataclasses.replace(graph, cpu=None)})
        runner = Runner(folder, portable, manifest, "cpu", proving=True)
        compare(runner, texts, reference.vectors, reference.name, independent=reference.independent)
    save_reference(folder, route, texts, reference.vectors)
    return dataclasses.replace(route, parity={PRECISION: report})


def _add_int8(folder: Path, manifest: Manifest, texts: Texts) -> Manifest:
    """Adds a graph in 8 bits to every route, with its report."""
    routes = {}
    with DataFile(folder / int8.DATA) as data:
        for name, route in manifest.routes.items():

            def judge_graph(route: Route, method: str) -> QualityReport:
                files = manifest.files | record_files(folder, [int8.DATA])
                lossy = Runner(folder, route, dataclasses.replace(manifest, files=files), "cpu", INT8)
                return judge(lossy, texts.held_back, expected, method)  # noqa: B023 - called before the next route

            exact = Runner(folder, route, manifest, "cpu", proving=True)
            expected = exact.encode(texts.held_back)
            routes[name] = int8.quantize(folder, exact, texts, data, judge_graph)
    written = [int8.DATA, *(route.graphs[INT8].file for route in routes.values())]
    files = manifest.files | record_files(folder, written)
    return dataclasses.replace(manifest, routes=routes, files=files)
