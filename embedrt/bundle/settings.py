"""Settings of a bundle in its manifest and in the config files that other tools read."""

import dataclasses
import json
from pathlib import Path, PurePosixPath
from typing import Any

from embedrt.bundle.manifest import DEFAULT_ROUTE, FLOAT32, Manifest, record_files, write_manifest
from embedrt.bundle.strict_json import read_json

_CONFIG, _TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
# The first module's config has one of these names, by the age and the architecture of the model.
_MAX_SEQ_LENGTH = "sentence_*_config.json"
# What transformers.js calls the dtypes that have a portable graph.
_JAVASCRIPT_DTYPES = {FLOAT32: "fp32", "int8": "int8"}


def write_settings(folder: Path, manifest: Manifest) -> Manifest:
    """Write a manifest with changed settings into a bundle, and the settings into its config files.

    Args:
        folder: The bundle, not published yet.
        manifest: Its manifest with other prompts, similarity function, dimensions or limits.

    Returns:
        The manifest as it is written, with the new sizes and hashes of the config files.
    """
    settings: dict[str, Any] = {
        "prompts": manifest.prompts,
        "default_prompt_name": manifest.default_prompt_name,
        "similarity_fn_name": manifest.similarity_fn_name,
    }
    if manifest.truncate_dim is not None:
        settings["truncate_dim"] = manifest.truncate_dim
    changed = _update(folder, _SENTENCE_TRANSFORMERS, settings)
    if DEFAULT_ROUTE in manifest.routes:
        for path in folder.glob(_MAX_SEQ_LENGTH):
            changed += _update(folder, path.name, {"max_seq_length": manifest.routes[DEFAULT_ROUTE].max_seq_length})
        changed += _write_limit(folder, manifest)
    written = dataclasses.replace(manifest, files=manifest.files | record_files(folder, changed))
    write_manifest(folder, written)
    return written


def describe_graphs(folder: Path, manifest: Manifest) -> Manifest:
    """Write into a new bundle's config files what transformers.js and other tools must know of its graphs.

    Without these keys transformers.js looks for a file with 8-bit weights in browsers, for weights inside of the graph,
    and truncates at the limit of the tokenizer, which may be above that of the model.

    Args:
        folder: The bundle, not published yet.
        manifest: Its manifest.

    Returns:
        The manifest with the sizes and hashes of the config files.
    """
    if DEFAULT_ROUTE not in manifest.routes:
        return manifest  # files of another name, which no other tool finds by itself
    graphs = [
        variant
        for variant in manifest.routes[DEFAULT_ROUTE].variants
        if variant.operators == "portable" and variant.dtype in _JAVASCRIPT_DTYPES
    ]
    changed = _write_limit(folder, manifest)
    if graphs:
        weights = {PurePosixPath(graph.file).name: True for graph in graphs if graph.data == f"{graph.file}_data"}
        found = {"dtype": _JAVASCRIPT_DTYPES[graphs[0].dtype], "use_external_data_format": weights}
        changed += _update(folder, _CONFIG, {"transformers.js_config": found})
    return dataclasses.replace(manifest, files=manifest.files | record_files(folder, changed))


def _write_limit(folder: Path, manifest: Manifest) -> list[str]:
    """Write the limit of the default route where tokenizers of other tools read it; returns the changed files."""
    limit = manifest.routes[DEFAULT_ROUTE].max_seq_length
    return [] if limit is None else _update(folder, _TOKENIZER_CONFIG, {"model_max_length": limit})


def _update(folder: Path, name: str, values: dict[str, Any]) -> list[str]:
    """Replace some keys of a JSON file; returns its name in a list, empty if there is no such file."""
    path = folder / name
    if not path.is_file():
        return []
    text = json.dumps({**read_json(path), **values}, indent=2, ensure_ascii=False)
    path.write_bytes(text.encode() + b"\n")
    return [name]
