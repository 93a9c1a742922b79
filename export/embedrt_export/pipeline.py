"""`export`: locate the model, read it, choose the method, build the graphs, verify them, publish the bundle."""

import dataclasses
import hashlib
import json
import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from embedrt._version import __version__
from embedrt.bundle.atomic import publish
from embedrt.bundle.check import expanded
from embedrt.bundle.disk import bytes_in, room
from embedrt.bundle.manifest import (
    FLOAT32,
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    MultiVector,
    Route,
    Scoring,
    Sparse,
    read_manifest,
    record_files,
    write_manifest,
)
from embedrt.bundle.settings import describe_graphs
from embedrt.bundle.staging import recover, staging
from embedrt.errors import BundleError, DeviceError, ExportError, UnsupportedModelError
from embedrt.hub.local import stored_path
from embedrt.inputs.check import check_texts
from embedrt.inputs.values import one_of, truth
from embedrt.types import Task, dtype_name
from embedrt_export.dtypes import WRITERS, Draft
from embedrt_export.dtypes.int8.texts import Texts, read_texts
from embedrt_export.graph.data_file import DataFile
from embedrt_export.heads import sparse_auto_encoder
from embedrt_export.options import ExportOptions, Wanted
from embedrt_export.proof.reference import ReferenceKind
from embedrt_export.routes import multi_vector
from embedrt_export.routes.decide import Decisions, decide
from embedrt_export.routes.layout import DATA
from embedrt_export.routes.recognize import recognize
from embedrt_export.routes.repo import ModelSpec, read_repo, transformers
from embedrt_export.routes.route import BuiltRoute, build_route
from embedrt_export.routes.scoring import scoring_of
from embedrt_export.source.files import check_files, copy_config
from embedrt_export.source.locate import Located, locate

logger = logging.getLogger("embedrt.export")

# Configs for other tools; the runtime does not read them.
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
    task: Task | None = None,
    adapter: str | None = None,
    dtype: str | Sequence[str] = FLOAT32,
    calibration_texts: str | Path | None = None,
    overwrite: bool = False,
    via: Wanted = "auto",
    onnx_file: str | None = None,
    reference: ReferenceKind = "auto",
) -> Path:
    """Export a model as a bundle, without torch, and verify that it computes the same vectors.

    Args:
        source: A hub id, a local model folder, or `package:NAME` for a model in an installed Python package.
        output: The bundle's folder; None stores it in the local store under its name.
        name: The bundle's name; None uses the hub id, or the name of the folder or package.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        task: The kind of model: "embed" makes one vector per text, "score" scores pairs of texts, "sparse" makes
            vocabulary weights, "multi-vector" makes one vector per token. None recognizes it by the model's files.
        adapter: For models with task adapters: the one to merge into the weights; None merges none.
        dtype: The dtypes of the bundle, one or more of "float32", "float16", "bfloat16" and "int8", as in
            `("float32", "int8")`. Each is compared with float32. "float16" and "bfloat16" are for GPUs by CUDA; where
            values of the model exceed the range of float16, bfloat16 holds them. "int8" is for CPUs; if this machine
            cannot run it beside others, the bundle is exported without it and a warning is logged.
        calibration_texts: A file with calibration texts for int8, float16 and bfloat16, one per line; None uses
            embedrt's own, in many languages.
        overwrite: Replace an existing bundle.
        via: The export method: "native" builds the graph from config and safetensors; "onnx" uses an ONNX file of the
            repo (`onnx/model.onnx` or `model.onnx`) and adds the modules after the transformer; "optimum" has
            optimum-onnx export that file first, with torch, in another process; "auto" chooses the first that works.
        onnx_file: Another ONNX file of the repo, such as "onnx/model_O3.onnx"; a float32 model.
        reference: The reference for the vectors: "sentence-transformers" on this machine, "golden" vectors that
            embedrt ships for some models, or "onnx", the same graph in onnx's reference evaluator. "auto" chooses the
            first available.

    Returns:
        The bundle's folder. It exists complete and verified, or not at all.

    Raises:
        ModelNotFoundError: The source cannot be found.
        UnsupportedModelError: The model uses something that embedrt does not support; the message names it.
        ExportError: A file of the model is missing or damaged.
        ParityError: The bundle's vectors differ from the reference.
        QualityError: The vectors of another dtype differ too much from float32, or exceed its range.
        DeviceError: This machine can run none of the dtypes, and so cannot verify them.
        BundleError: `output` exists and is not a bundle.
        MissingDependencyError: `via` is "optimum", and optimum-onnx is not installed.
        ValueError: `via` or `dtype` is unknown, or `onnx_file` or `calibration_texts` does not apply to it.
    """
    options = ExportOptions(via, onnx_file, adapter, task)
    one_of(reference, ReferenceKind, "reference")
    overwrite = truth(overwrite, "overwrite")
    if name is not None:
        if not isinstance(name, str):
            raise TypeError(f"name: expected str or None, got {type(name).__name__}")
        name = check_texts(name, "name")[0][0]
    if output is None:  # an invalid name and a store without a folder fail here, not after the work
        stored_path("model" if name is None else name, revision)
    dtypes = _dtypes(dtype)
    texts = _calibration(dtypes, calibration_texts)
    target = None if output is None else expanded(output)
    if target is not None:
        recover(target)
    if target is not None and target.exists():
        _require_bundle(target, overwrite=overwrite)
    located = locate(source, revision, token, defer_weights=via in {"auto", "onnx"})
    name = located.name if name is None else name
    target = stored_path(name, revision) if target is None else target
    check_files(located.folder)
    recognized = recognize(located.folder, options.task)
    spec = read_repo(located.folder, recognized.task, is_local=located.source.kind != "hub", token=token)
    logger.info("%s: task %s, %s", name, recognized.task, recognized.reason)
    logger.info("%s: %s in %s", name, _chains(spec), located.folder)
    with staging(target) as folder, room(target, lambda: bytes_in(folder), ExportError):
        decisions = decide(spec, located, options, token)
        manifest = _write_bundle(folder, located, spec, name, decisions)
        draft = Draft(folder, manifest, spec, reference, decisions, texts)
        for name in dict.fromkeys([FLOAT32, *dtypes]):
            draft = dataclasses.replace(draft, manifest=WRITERS[name].write(draft))
        manifest = describe_graphs(folder, _keep(folder, draft.manifest, dtypes))
        write_manifest(folder, manifest)
        read_manifest(folder)  # an invalid manifest fails here, not on load
        publish(folder, target, overwrite=overwrite)
        logger.info("done: %s", target)
    return target


def _dtypes(dtype: str | Sequence[str]) -> list[str]:
    """List the requested dtypes that this machine can run.

    Raises:
        ValueError: A dtype is unknown, or the list is empty.
        DeviceError: This machine can run none of them.
    """
    wanted = list(dict.fromkeys(map(dtype_name, [dtype] if isinstance(dtype, str) else dtype)))
    if not wanted:
        raise ValueError(f"dtype: expected one or more of {', '.join(WRITERS)}, got none")
    if unknown := [name for name in wanted if name not in WRITERS]:
        raise ValueError(f"dtype: {unknown[0]!r} cannot be exported; expected {' or '.join(WRITERS)}")
    failures = {}
    for name in wanted:
        try:
            WRITERS[name].require()
        except DeviceError as error:
            failures[name] = error
    if len(failures) == len(wanted):
        raise failures[wanted[0]]
    for name, failure in failures.items():
        logger.warning("exporting without %s: %s", name, failure)
    return [name for name in wanted if name not in failures]


def _calibration(dtypes: Sequence[str], calibration_texts: str | Path | None) -> Texts | None:
    """Read the calibration texts, if a dtype needs them."""
    if any(WRITERS[name].takes_texts for name in dtypes):
        return read_texts(None if calibration_texts is None else Path(calibration_texts))
    if calibration_texts is not None:
        takers = " or ".join(name for name, writer in WRITERS.items() if writer.takes_texts)
        raise ValueError(f"calibration_texts: only for {takers}; add {takers} to dtype, or leave calibration_texts out")
    return None


def _require_bundle(target: Path, *, overwrite: bool) -> None:
    """Require that the target is a bundle, or an empty folder to overwrite; fail before the export starts."""
    is_empty = target.is_dir() and not any(target.iterdir())
    if not (target / MANIFEST).is_file() and not (overwrite and is_empty):
        raise BundleError(f"{target} exists and is not a bundle; choose another folder, or delete it first")


def _chains(spec: ModelSpec) -> str:
    return ", ".join(" > ".join(module.kind for module in chain) for chain in spec.chains.values())


def _write_bundle(folder: Path, located: Located, spec: ModelSpec, name: str, decisions: Decisions) -> Manifest:
    """Write graphs, tokenizers and configs; returns the manifest without proofs."""
    (folder / "onnx").mkdir()
    with DataFile(folder / DATA) as data:
        built = {route: build_route(folder, data, route, chain, decisions) for route, chain in spec.chains.items()}
    routes = {route: one.record for route, one in built.items()}
    written = {file for route in routes.values() for file in (route.tokenizer, *route.variants[0].files)}
    dim = _common_dim(built)
    if spec.truncate_dim is not None and not 1 <= spec.truncate_dim <= dim:
        raise ExportError(
            f"config_sentence_transformers.json: truncate_dim {spec.truncate_dim} is not within 1 to {dim}"
        )
    identity: dict[str, Any] = {"routes": {route: one.identity for route, one in built.items()}, "tasks": spec.tasks}
    several = _multi_vector(spec, built)
    if several is not None:
        identity["multi_vector"] = dataclasses.asdict(several)
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        task=spec.task,
        source=located.source,
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
            "embedrt": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "onnx", "safetensors", "tokenizers")},
        },
        multi_vector=several,
        sparse=_sparse_settings(spec) if spec.task == "sparse" else None,
        scoring=_scoring(spec, dim) if spec.task == "score" else None,
    )


def _multi_vector(spec: ModelSpec, built: dict[str, BuiltRoute]) -> MultiVector | None:
    """The settings of multi-vector embeddings, of the one route that makes them."""
    if spec.task != "multi-vector":
        several = any(module.kind == "ColbertLinear" for chain in spec.chains.values() for module in chain)
        return MultiVector(skipped_start=1) if several else None
    ((route, one),) = built.items()
    return multi_vector.settings_of(spec.chains[route], one.tokenizer, one.record.position_limit)


def _scoring(spec: ModelSpec, labels: int) -> Scoring:
    """The settings of a model that scores pairs."""
    config = next((module.transformer.config for module in transformers(spec)), {})
    return scoring_of(spec.top.activation_fn, config, labels)


def _sparse_settings(spec: ModelSpec) -> Sparse:
    """The number of entries to keep: the model's, or that of its SparseAutoEncoder."""
    kept = [
        module.settings.k
        for chain in spec.chains.values()
        for module in chain
        if module.kind == sparse_auto_encoder.KIND
    ]
    stated: int | None = spec.top.max_active_dims
    return Sparse(stated if stated is not None else next(iter(kept), None))


def _common_dim(built: dict[str, BuiltRoute]) -> int:
    """Width of the vectors, which must be the same for all routes, as their vectors are compared with each other."""
    dims = {route: one.dim for route, one in built.items()}
    if len(set(dims.values())) > 1:
        shown = ", ".join(f"{route}: {dim}" for route, dim in dims.items())
        raise UnsupportedModelError(f"the routes return vectors of different widths, which cannot be compared: {shown}")
    return next(iter(dims.values()))


def _copy_configs(spec: ModelSpec, folder: Path) -> list[str]:
    """Copy the JSON files that other tools read, to the paths that they expect; returns the paths."""
    copied = []
    for path in sorted(path for pattern in _COPIED for path in spec.folder.glob(pattern)):
        name = path.relative_to(spec.folder).as_posix()
        if copy_config(spec.folder, name, folder):
            copied.append(name)
        else:
            logger.warning("%s: not copied into the bundle, as it is a link that leads out of the model folder", name)
    return copied


def _keep(folder: Path, manifest: Manifest, dtypes: Sequence[str]) -> Manifest:
    """Drop the variants of other dtypes, and the files that only they use."""
    routes = {
        name: dataclasses.replace(
            route, variants=tuple(variant for variant in route.variants if variant.dtype in dtypes)
        )
        for name, route in manifest.routes.items()
    }

    def files_of(routes: dict[str, Route]) -> set[str]:
        return {file for route in routes.values() for variant in route.variants for file in variant.files}

    dropped = files_of(manifest.routes) - files_of(routes)
    for file in dropped:
        (folder / file).unlink()
    files = {name: record for name, record in manifest.files.items() if name not in dropped}
    return dataclasses.replace(manifest, routes=routes, files=files)
