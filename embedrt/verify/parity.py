"""The proof: a bundle's vectors against reference vectors, whole vectors by absolute error and norm.

Precisions that are not exact are judged by cosine instead, over texts that they were not made with.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Route
from embedrt.bundle.reports import MEAN_COSINE, MIN_COSINE, ParityReport, QualityReport
from embedrt.embedder import Embedder
from embedrt.errors import ParityError, QualityError
from embedrt.run.runner import Runner
from embedrt.tasks.embed import graph_vectors, graph_vectors_together
from embedrt.types import SENTENCE, Vectors

TOLERANCE = 1e-5
"""What float32 vectors may differ from the reference, in any coordinate of a vector of length 1."""

# How far the cosines on another machine may be from those at export; its float32 kernels round otherwise.
_SLACK = 0.001


@dataclass(frozen=True)
class Bound:
    """What vectors may differ from the reference.

    Attributes:
        tolerance: In any coordinate of a vector of length 1.
        min_cosine: Of whole vectors.
    """

    tolerance: float
    min_cosine: float = -1.0


COMPUTED = {"bf16": Bound(1e-2, 0.999)}
"""Bounds for the float32 graph computed in another precision, for which no export made a report.

bfloat16 keeps 8 bits of a number, so each rounding is off by up to 2**-9 of it, and those of a model's layers add up
like random ones. A cosine of 0.999 is a difference of length `sqrt(2 * (1 - 0.999))` = 0.045 over all coordinates. What
is beyond is a fault and not rounding.
"""


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


def verify(embedder: Embedder) -> Mapping[str, ParityReport | QualityReport]:
    """Computes the bundle's own texts on this machine and compares them with the reference vectors in the bundle.

    Returns:
        A report for every route.

    Raises:
        ParityError: A vector is beyond the tolerance of the export, or that of the precision computed in.
        QualityError: The precision is not exact, and its vectors are worse here than where it was exported.
    """
    return {name: verify_route(runner, embedder.precision) for name, runner in embedder.runners.items()}


def verify_route(runner: Runner, precision: str) -> ParityReport | QualityReport:
    """The same for one route, whose runner computes in a precision."""
    if (quality := runner.route.quality.get(precision)) is not None:
        return _verify_quality(runner, quality)
    bound = bound_of(runner.route, precision)
    made = runner.route.parity.get(precision) or runner.route.parity["fp32"]
    return compare(
        runner,
        read_texts(runner.folder, runner.route),
        np.load(runner.folder / runner.route.parity_vectors, allow_pickle=False),
        made.reference,
        independent=made.independent,
        tolerance=bound.tolerance,
        min_cosine=bound.min_cosine,
    )


def bound_of(route: Route, precision: str) -> Bound:
    """What vectors of a precision may differ from the reference: as the export allowed, or as computing in it does."""
    if precision in route.parity:
        return Bound(route.parity[precision].tolerance)
    if precision in route.quality:
        cosine = route.quality[precision].parity_min_cosine - _SLACK
        return Bound(sqrt(2 * (1 - cosine)), cosine)  # so far apart are two vectors of length 1 as a whole
    return COMPUTED[precision]


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
    min_cosine: float = -1.0,
) -> ParityReport:
    """Encodes the texts in three ways (each alone, planned, and padded far beyond their length) and measures.

    Args:
        runner: What is judged.
        texts: The texts.
        reference: Their vectors `[len(texts), dim]`, before truncation.
        reference_name: What made them.
        independent: See `ParityReport`.
        tolerance: What the errors may be at most.
        min_cosine: What the cosines must be at least.

    Raises:
        ParityError: An error is above the tolerance, or a cosine too small.
    """
    counts: list[int] = runner.tokenize(texts).lengths.tolist()
    alone = np.concatenate([graph_vectors(runner, [text]) for text in texts])
    planned = graph_vectors(runner, texts)
    padded = _among_others(runner, texts, counts)
    scale = _scale(reference)
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
        min_cosine=float(cosines(planned, reference).min()),
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
            f"the vectors of {runner.name} ({runner.graph_file}) differ from {reference_name} by up to "
            f"{worst.max():.1e} in a coordinate, {tolerance:.0e} is allowed; the worst texts:\n{shown}"
        )
    if not report.min_cosine >= min_cosine:
        raise ParityError(
            f"the vectors of {runner.name} have a cosine to {reference_name} of only {report.min_cosine:.6f}; at least "
            f"{min_cosine} is allowed"
        )
    return report


def _among_others(runner: Runner, texts: list[str], counts: list[int]) -> Vectors:
    """Every text in one batch with texts of all lengths, so that the short ones are mostly padding."""
    by_length = np.argsort(counts, kind="stable")
    vectors = np.empty((len(texts), runner.widths[SENTENCE]), np.float32)
    groups = -(-len(texts) // 4)
    for start in range(groups):
        rows = by_length[start::groups]
        vectors[rows] = graph_vectors_together(runner, [texts[i] for i in rows])
    return vectors


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """The cosine of every vector to the one at the same place, float64 `[n]`."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosines: NDArray[np.float64] = (a64 * b64).sum(axis=1) / np.maximum(norms, 1e-30)
    return cosines


def judge(lossy: Runner, texts: list[str], expected: Vectors, method: str) -> QualityReport:
    """Compares the vectors of a lossy precision with those in float32.

    Args:
        lossy: A route in the precision that is judged, with reference vectors in its folder.
        texts: Natural texts, other than those that the precision was made with.
        expected: Their vectors in float32, `[len(texts), dim]`.
        method: How the precision was made.
    """
    planned = graph_vectors(lossy, texts)
    alone = np.concatenate([graph_vectors(lossy, [text]) for text in texts])
    found = cosines(planned, expected)
    odd = _over_proof(lossy)
    return QualityReport(
        method=method,
        texts=len(texts),
        max_tokens=int(lossy.tokenize(texts).lengths.max()),
        mean_cosine=float(found.mean()),
        min_cosine=float(found.min()),
        mean_cosine_allowed=MEAN_COSINE,
        min_cosine_allowed=MIN_COSINE,
        parity_mean_cosine=float(odd.mean()),
        parity_min_cosine=float(odd.min()),
        max_batch_error=float(np.abs(planned - alone).max()) / _scale(expected),
        engine=lossy.engine.description,
    )


def _verify_quality(runner: Runner, made: QualityReport) -> QualityReport:
    """Computes the texts of the proof on this machine and compares their cosines with those at export.

    Returns:
        The report of the export, with what was found here.

    Raises:
        QualityError: The vectors are worse here.
    """
    found = _over_proof(runner)
    report = dataclasses.replace(
        made,
        parity_mean_cosine=float(found.mean()),
        parity_min_cosine=float(found.min()),
        engine=runner.engine.description,
    )
    if not (
        report.parity_mean_cosine >= made.parity_mean_cosine - _SLACK
        and report.parity_min_cosine >= made.parity_min_cosine - _SLACK
    ):
        raise QualityError(
            f"the vectors of {runner.name} are worse here than where they were exported: cosine to the reference "
            f"{report.parity_mean_cosine:.5f} in the mean and {report.parity_min_cosine:.5f} at least, there "
            f"{made.parity_mean_cosine:.5f} and {made.parity_min_cosine:.5f}; use precision='fp32' on this machine"
        )
    return report


def _over_proof(runner: Runner) -> NDArray[np.float64]:
    """Cosines to the reference vectors in the bundle."""
    reference = np.load(runner.folder / runner.route.parity_vectors, allow_pickle=False)
    return cosines(graph_vectors(runner, read_texts(runner.folder, runner.route)), reference)


def _scale(vectors: Vectors) -> float:
    return max(1.0, float(np.linalg.norm(vectors, axis=1).max()))
