"""Settings of a bundle in its manifest and in the config files that other tools read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from embedrt.bundle.manifest import DEFAULT_ROUTE, Manifest, record_files, write_manifest
from embedrt.bundle.strict_json import read_json

_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
# The first module's config has one of these names, by the age and the architecture of the model.
_MAX_SEQ_LENGTH = "sentence_*_config.json"


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
    written = dataclasses.replace(manifest, files=manifest.files | record_files(folder, changed))
    write_manifest(folder, written)
    return written


def _update(folder: Path, name: str, values: dict[str, Any]) -> list[str]:
    """Replace some keys of a JSON file; returns its name in a list, empty if there is no such file."""
    path = folder / name
    if not path.is_file():
        return []
    text = json.dumps({**read_json(path), **values}, indent=2, ensure_ascii=False)
    path.write_bytes(text.encode() + b"\n")
    return [name]
