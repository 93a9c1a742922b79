"""The proof: a bundle's vectors against reference vectors, whole vectors by absolute error and norm."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle import ParityReport, Route
from embedrt.embedder import Embedder
from embedrt.errors import ParityError
from embedrt.runner import Runner
from embedrt.signatures import Vectors

TOLERANCE = 1e-5
"""What float32 vectors may differ from the reference, in any coordinate of a vector of length 1."""


def save_reference(folder: Path, route: Route, texts: list[str], vectors: Vectors) -> None:
    """Writes the texts of a route and their reference vectors into a bundle, for `verify` to use on other machines."""
    (folder / route.parity_texts).parent.mkdir(exist_ok=True)
    (folder / route.parity_texts).write_bytes(json.dumps(texts, ensure_ascii=True, indent=1).encode() + b"\n")
    np.save(folder / route.parity_vectors, vectors.astype(np.float32), allow_pickle=False)


def parity_texts(embedder: Embedder) -> list[str]:
    """The texts of the proof, of the route that calls without a task take, or of the first."""
    route = embedder.manifest.routes.get(embedder.manifest.tasks.get("", ""))
    route = next(iter(embedder.manifest.routes.values())) if route is None else route
    return read_texts(embedder.folder, route)


def verify(embedder: Embedder) -> dict[str, ParityReport]:
    """Computes the bundle's own texts on this machine and compares them with the reference vectors in the bundle.

    Returns:
        A report for every route.

    Raises:
        ParityError: A vector is beyond the tolerance of the export.
    """
    reports = {}
    for name, runner in embedder.runners.items():
        texts = read_texts(embedder.folder, runner.route)
        vectors = np.load(embedder.folder / runner.route.parity_vectors, allow_pickle=False)
        made = runner.route.parity[embedder.precision]
        reports[name] = compare(
            runner, texts, vectors, made.reference, independent=made.independent, tolerance=made.tolerance
        )
    return reports


def read_texts(folder: Path, route: Route) -> list[str]:
    """The texts of a route's proof."""
    texts: list[str] = json.loads((folder / route.parity_texts).read_bytes())
    return texts


def compare(
    runner: Runner,
    texts: list[str],
    reference: Vectors,
    reference_name: str,
    *,
    independent: bool,
    tolerance: float = TOLERANCE,
) -> ParityReport:
    """Encodes the texts in three ways (each alone, planned, and padded far beyond their length) and measures.

    Args:
        runner: What is judged.
        texts: The texts.
        reference: Their vectors `[len(texts), dim]`, before truncation.
        reference_name: What made them.
        independent: See `ParityReport`.
        tolerance: What the errors may be at most.

    Raises:
        ParityError: An error is above the tolerance.
    """
    counts = [len(ids) for ids in runner.tokenize(texts).ids]
    alone = np.concatenate([runner.encode([text]) for text in texts])
    planned = runner.encode(texts)
    padded = _among_others(runner, texts, counts)
    scale = max(1.0, float(np.linalg.norm(reference, axis=1).max()))
    errors = np.maximum(np.abs(planned - reference), np.abs(alone - reference)).max(axis=1) / scale
    batch_errors = np.maximum(np.abs(planned - alone), np.abs(padded - alone)).max(axis=1) / scale
    norms = np.abs(np.linalg.norm(planned, axis=1) - np.linalg.norm(reference, axis=1)) / scale
    report = ParityReport(
        reference=reference_name,
        independent=independent,
        texts=len(texts),
        max_tokens=max(counts),
        tolerance=tolerance,
        max_abs_error=float(errors.max()),
        max_batch_error=float(batch_errors.max()),
        max_norm_error=float(norms.max()),
        min_cosine=float(_cosines(planned, reference).min()),
        worst_text=int(errors.argmax()),
        engine=runner.engine.description,
    )
    worst = np.maximum(errors, batch_errors)
    if not (worst <= tolerance).all():
        order = np.argsort(-np.nan_to_num(worst, nan=np.inf))[:5]
        shown = "\n".join(
            f"  {errors[i]:.1e} to the reference, {batch_errors[i]:.1e} by batch: texts[{i}] = {texts[i][:60]!r}"
            for i in order
        )
        raise ParityError(
            f"the vectors of {runner.name} differ from {reference_name} by up to "
            f"{worst.max():.1e} in a coordinate, {tolerance:.0e} is allowed; the worst texts:\n{shown}"
        )
    return report


def _among_others(runner: Runner, texts: list[str], counts: list[int]) -> Vectors:
    """Every text in one batch with texts of all lengths, so that the short ones are mostly padding."""
    by_length = np.argsort(counts, kind="stable")
    vectors = np.empty((len(texts), runner.dim), np.float32)
    groups = -(-len(texts) // 4)
    for start in range(groups):
        rows = by_length[start::groups]
        vectors[rows] = runner.encode_together([texts[i] for i in rows])
    return vectors


def _cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosines: NDArray[np.float64] = (a64 * b64).sum(axis=1) / np.maximum(norms, 1e-30)
    return cosines
