"""Ranges for int8 and uint8 vectors, measured over texts of the user and kept in the bundle."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from embedrt.bundle.atomic import replace_files, staging
from embedrt.bundle.manifest import MANIFEST, read_manifest, write_manifest
from embedrt.embedder import Embedder
from embedrt.errors import BundleError
from embedrt.hub.local import resolve
from embedrt.inputs.text import check_texts

MIN_TEXTS = 100
"""Fewer say too little about texts that are still to come."""


def calibrate(
    bundle: str | Path,
    texts: Iterable[str],
    prompt_name: str | None = None,
    *,
    task: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    show_progress_bar: bool | None = None,
) -> Path:
    """Writes the smallest and the largest value of every coordinate over the vectors of these texts into a bundle.

    The vectors are those of `Embedder.encode` in float32, with all coordinates. Nothing else in the bundle changes, and
    neither does its fingerprint. Ranges that are there already are replaced.

    Args:
        bundle: A bundle's folder, or a name in the local store.
        texts: Texts like those to encode later, at least `MIN_TEXTS`.
        prompt_name: As in `Embedder.encode`.
        task: As in `Embedder.encode`.
        device: As in `Embedder`.
        threads: As in `Embedder`.
        show_progress_bar: As in `Embedder.encode`.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: Too few texts, or an unknown prompt name or task.
        ModelNotFoundError: The name leads to no bundle here.
        BundleError: The bundle is damaged, or was changed meanwhile.
    """
    items, _ = check_texts(texts)
    if len(items) < MIN_TEXTS:
        raise ValueError(
            f"texts: {len(items)}, but ranges that hold for other texts need {MIN_TEXTS} or more, and better thousands"
        )
    embedder = Embedder(resolve(bundle, local_files_only=True), device, threads=threads)
    vectors = embedder.encode(
        items, prompt_name, task=task, truncate_dim=embedder.manifest.dim, show_progress_bar=show_progress_bar
    )
    ranges = tuple(tuple(map(float, edge)) for edge in (vectors.min(axis=0), vectors.max(axis=0)))
    folder = embedder.folder
    current = read_manifest(folder)
    if replace(current, vector_ranges=None) != replace(embedder.manifest, vector_ranges=None):
        raise BundleError(f"{folder}: the bundle was changed during the calibration; calibrate it again")
    with staging(folder / MANIFEST) as fresh:
        write_manifest(fresh, replace(current, vector_ranges=ranges))
        replace_files(fresh, folder)
    return folder
