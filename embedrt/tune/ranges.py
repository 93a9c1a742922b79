"""Ranges for int8 and uint8 vectors, measured over the user's texts and stored in the bundle."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from embedrt.bundle.atomic import replace_files
from embedrt.bundle.disk import explained
from embedrt.bundle.manifest import MANIFEST, manifest_bytes, read_manifest, write_manifest
from embedrt.bundle.staging import staging
from embedrt.embedder import Embedder
from embedrt.errors import BundleError
from embedrt.hub.resolve import resolve
from embedrt.inputs.check import check_texts

MIN_TEXTS = 100
"""The minimum number of texts for ranges that also suit other texts."""


def ranges(
    bundle: str | Path,
    texts: Iterable[str],
    prompt_name: str | None = None,
    *,
    task: str | None = None,
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    gpu_mem_limit: int | str | None = None,
    show_progress_bar: bool | None = None,
) -> Path:
    """Measure the range of every coordinate and store it in the bundle; see `embedrt.ranges`."""
    items, _ = check_texts(texts)
    if len(items) < MIN_TEXTS:
        raise ValueError(
            f"texts: expected at least {MIN_TEXTS}, better thousands, got {len(items)}; ranges from few texts do not "
            "suit other texts"
        )
    embedder = Embedder(resolve(bundle, local_files_only=True), device, threads=threads, gpu_mem_limit=gpu_mem_limit)
    folder = embedder.folder
    if not os.access(folder, os.W_OK):
        raise BundleError(f"{folder}: the ranges cannot be written there; copy the bundle to a writable folder")
    vectors = embedder.encode(
        items, prompt_name, task=task, truncate_dim=embedder.manifest.dim, show_progress_bar=show_progress_bar
    )
    edges = tuple(tuple(map(float, edge)) for edge in (vectors.min(axis=0), vectors.max(axis=0)))
    folder, files = embedder.folder, embedder.loaded.bundle.files
    changed = BundleError(f"{folder}: the bundle changed while its ranges were measured; measure them again")
    if files.is_replaced:
        raise changed
    current = read_manifest(folder, files.root)
    if replace(current, vector_ranges=None) != replace(embedder.manifest, vector_ranges=None):
        raise changed
    measured = replace(current, vector_ranges=edges)
    with (
        explained(folder / MANIFEST, len(manifest_bytes(measured)), BundleError),
        staging(files.root / MANIFEST) as fresh,
    ):
        write_manifest(fresh, measured)
        if files.is_replaced:
            raise changed
        replace_files(fresh, files.root)
    return folder
