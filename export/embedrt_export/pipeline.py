"""`export`: source -> spec -> graph -> bundle -> proof -> published, in a straight line."""

import dataclasses
import hashlib
import json
import logging
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import embedrt
from embedrt import store
from embedrt.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    PARITY_TEXTS,
    PARITY_VECTORS,
    TOKENIZER,
    Graph,
    Manifest,
    read_manifest,
    record_files,
    write_manifest,
)
from embedrt.embedder import Embedder
from embedrt.errors import BundleError, ExportError
from embedrt.parity import compare, save_reference
from embedrt_export.families import FAMILIES
from embedrt_export.graph import DataFile, GraphBuilder
from embedrt_export.heads import normalize, pool
from embedrt_export.layers import text_inputs, unflatten
from embedrt_export.reference import find_reference
from embedrt_export.repo import ModelSpec, read_repo
from embedrt_export.source import Located, locate
from embedrt_export.texts import parity_texts
from embedrt_export.tokenization import SettledTokenizer, settle_tokenizer
from embedrt_export.weights import Weights

logger = logging.getLogger("embedrt.export")

PRECISION = "fp32"
_GRAPH = Graph(file="onnx/model.onnx", data="onnx/model.onnx.data", flavour="portable")
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
    overwrite: bool = False,
) -> Path:
    """Turns a model into a bundle, without torch, and proves that it computes the same vectors.

    Args:
        source: A hub id, a local model folder, or `package:NAME` for an installed Python package that carries one.
        output: The bundle's folder; None puts it into the local store under its name.
        name: The bundle's name; None takes the hub id, or the name of the folder or package.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        overwrite: Replace a bundle that is there already.

    Returns:
        The bundle's folder. It exists whole and proven, or not at all.

    Raises:
        ModelNotFoundError: The source is nowhere.
        UnsupportedModelError: The model uses something that embedrt does not know; the message names it.
        ExportError: A file of the model is missing or damaged.
        ParityError: The bundle's vectors differ from the reference.
        BundleError: Something else is where the bundle should go.
    """
    target = None if output is None else Path(output).expanduser()
    if target is not None and target.exists():
        _require_bundle(target, overwrite=overwrite)
    located = locate(source, revision, token)
    name = located.name if name is None else name
    target = store.stored_path(name, revision) if target is None else target
    spec = read_repo(located.folder)
    logger.info("%s: %s in %s", name, spec.architecture, located.folder)
    with store.staging(target) as folder:
        manifest = _write_bundle(folder, located, spec, name)
        manifest = _prove(folder, manifest, spec)
        write_manifest(folder, manifest)
        read_manifest(folder)  # refuses here what it would refuse in every reader
        store.publish(folder, target, overwrite=overwrite)
        logger.info("done: %s", target)
    return target


def _require_bundle(target: Path, *, overwrite: bool) -> None:
    """Fails before the work where `publish` would fail after it, or would delete what no export has made."""
    is_empty = target.is_dir() and not any(target.iterdir())
    if not (target / MANIFEST).is_file() and not (overwrite and is_empty):
        raise BundleError(f"{target} exists and is not a bundle; choose another folder, or delete it first")


def _write_bundle(folder: Path, located: Located, spec: ModelSpec, name: str) -> Manifest:
    """Writes graph, tokenizer and configs; the manifest lacks the proof."""
    family = FAMILIES[spec.architecture]
    config = family.read_config(spec.config)
    tokenizer = settle_tokenizer(
        spec.transformer, spec.architecture, config.vocab_size, do_lower_case=spec.do_lower_case
    )
    (folder / TOKENIZER).write_bytes(tokenizer.definition.encode())
    (folder / "onnx").mkdir()
    with Weights(spec.transformer, family.prefixes, family.renames) as weights:
        _write_graph(folder, spec, config, tokenizer, weights)
        if unread := weights.unread(family.backbone, family.ignored):
            raise ExportError(
                f"weights: config.json describes a smaller model, it has no place for {', '.join(unread[:5])}"
                + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
            )
        weights_digest = weights.digest()
    copied = _copy_configs(spec, folder)
    max_seq_length = _max_seq_length(spec, tokenizer, family.positions(config))
    identity = {
        "architecture": {"model_type": spec.architecture, **_unusual(config)},
        "weights": weights_digest,
        "tokenizer": hashlib.sha256(tokenizer.definition.encode()).hexdigest(),
        "modules": [dataclasses.asdict(module) for module in spec.modules],
        "max_seq_length": max_seq_length,
    }
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        source=located.source,
        architecture=spec.architecture,
        via="native",
        hidden_size=config.hidden_size,
        dim=config.hidden_size * len(spec.pooling),
        modules=spec.modules,
        pooling=spec.pooling,
        normalized=spec.normalized,
        max_seq_length=max_seq_length,
        prompts=spec.prompts,
        default_prompt_name=spec.default_prompt_name,
        truncate_dim=spec.truncate_dim,
        similarity_fn_name=spec.similarity_fn_name,
        tokenization=tokenizer.tokenization,
        graphs={PRECISION: _GRAPH},
        files=record_files(folder, [TOKENIZER, _GRAPH.file, _GRAPH.data, *copied]),
        parity={},
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        vector_ranges=None,
        made_with={
            "embedrt": embedrt.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "onnx", "safetensors", "tokenizers")},
        },
    )


def _unusual(config: Any) -> dict[str, Any]:
    """What differs from the architecture's defaults; so a key that is read only later changes no fingerprint."""
    values = dataclasses.asdict(config)
    return {f.name: values[f.name] for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}


def _write_graph(folder: Path, spec: ModelSpec, config: Any, tokenizer: SettledTokenizer, weights: Weights) -> None:
    family, hidden = FAMILIES[spec.architecture], config.hidden_size
    with DataFile(folder / _GRAPH.data) as data:
        graph = GraphBuilder(data)
        inputs = text_inputs(graph, token_type_ids=tokenizer.tokenization.token_type_ids)
        tokens = unflatten(graph, family.build(graph, config, weights, inputs)[-1], inputs.shape, hidden)
        vectors = pool(graph, spec.pooling, tokens, inputs.attention_mask)
        if spec.normalized:
            vectors = normalize(graph, vectors)
        graph.output("token_embeddings", tokens, ["batch", "sequence", hidden])
        graph.output("sentence_embedding", vectors, ["batch", hidden * len(spec.pooling)])
        graph.save(folder / _GRAPH.file)


def _copy_configs(spec: ModelSpec, folder: Path) -> list[str]:
    """Copies the JSON files that other tools read, at the places where they expect them."""
    copied = []
    for path in sorted(path for pattern in _COPIED for path in spec.folder.glob(pattern)):
        name = path.relative_to(spec.folder).as_posix()
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)
        copied.append(name)
    return copied


def _max_seq_length(spec: ModelSpec, tokenizer: SettledTokenizer, positions: int | None) -> int:
    """The limit that sentence-transformers would use, but never more than there are position embeddings."""
    limits = [tokenizer.model_max_length, spec.config.get("max_position_embeddings"), positions]
    wanted = spec.max_seq_length or min(limit for limit in limits if limit is not None)
    if positions is not None and wanted > positions:
        logger.warning(
            "max_seq_length %d is more than the %d positions that the model has; using those", wanted, positions
        )
        wanted = positions
    if wanted <= tokenizer.special_tokens:
        raise ExportError(
            f"max_seq_length {wanted} leaves no room for text beside the {tokenizer.special_tokens} special tokens"
        )
    return wanted


def _prove(folder: Path, manifest: Manifest, spec: ModelSpec) -> Manifest:
    """Loads the bundle with the runtime, compares it with the reference, and adds reference and report."""
    embedder = Embedder.open_unpublished(folder, manifest, PRECISION)
    texts = parity_texts(manifest.max_seq_length)
    reference = find_reference(spec.folder, embedder, folder / _GRAPH.file, texts)
    logger.info("comparing %d texts with %s", len(texts), reference.name)
    report = compare(embedder, texts, reference.vectors, reference.name, independent=reference.independent)
    save_reference(folder, texts, reference.vectors)
    files = {**manifest.files, **record_files(folder, [PARITY_TEXTS, PARITY_VECTORS])}
    return dataclasses.replace(manifest, parity={PRECISION: report}, files=files)
