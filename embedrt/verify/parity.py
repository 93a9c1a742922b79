"""The proof: a bundle's vectors against reference vectors, whole vectors by absolute error and norm.

Dtypes that are not exact are judged by cosine instead, over texts that they were not made with.
"""

import dataclasses
import json
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Route, Variant
from embedrt.bundle.reports import MEAN_COSINE, MIN_COSINE, ParityReport, QualityReport
from embedrt.errors import BundleError, ParityError, QualityError
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


COMPUTED = {"bfloat16": Bound(1e-2, 0.999)}
"""Bounds for the float32 graph computed in another dtype, for which no export made a report.

bfloat16 keeps 8 bits of a number, so each rounding is off by up to 2**-9 of it, and those of a model's layers add up
like random ones. A cosine of 0.999 is a difference of length `sqrt(2 * (1 - 0.999))` = 0.045 over all coordinates. What
is beyond is a fault and not rounding.
"""


def save_reference(folder: Path, route: Route, texts: list[str], vectors: Vectors) -> None:
    """Writes the texts of a route and their reference vectors into a bundle, for `verify` to use on other machines."""
    (folder / route.parity_texts).parent.mkdir(exist_ok=True)
    (folder / route.parity_texts).write_bytes(json.dumps(texts, ensure_ascii=True, indent=1).encode() + b"\n")
    np.save(folder / route.parity_vectors, vectors.astype(np.float32), allow_pickle=False)


def verify_route(runner: Runner) -> ParityReport | QualityReport:
    """Compute the proof's texts on this machine and compare them with the reference vectors in the bundle.

    Raises:
        ParityError: A vector is beyond the tolerance of the export, or that of the dtype computed in.
        QualityError: The dtype is not exact, and its vectors are worse here than where it was exported.
    """
    runner = runner.with_max_seq_length(runner.route.parity_max_seq_length)
    made = runner.placement.variant.proof
    if isinstance(made, QualityReport):
        return _verify_quality(runner, made)
    if made is None:
        raise BundleError(f"{runner.folder}: {runner.placement.variant.file} has no proof; export the model again")
    bound = bound_of(runner.placement.variant, runner.placement.dtype)
    return compare(
        runner,
        read_texts(runner.folder, runner.route),
        np.load(runner.folder / runner.route.parity_vectors, allow_pickle=False),
        made.reference,
        independent=made.independent,
        tolerance=bound.tolerance,
        min_cosine=bound.min_cosine,
    )


def bound_of(variant: Variant, dtype: str) -> Bound:
    """The difference to the reference that is allowed for a variant, computed in its own dtype or in another."""
    if dtype != variant.dtype:
        return COMPUTED[dtype]
    if isinstance(variant.proof, QualityReport):
        cosine = variant.proof.parity_min_cosine - _SLACK
        return Bound(sqrt(2 * (1 - cosine)), cosine)  # so far apart are two vectors of length 1 as a whole
    return Bound(TOLERANCE if variant.proof is None else variant.proof.tolerance)


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
            f"the vectors of {runner.name} ({runner.placement.variant.file}) differ from {reference_name} by up to "
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
    """Compares the vectors of a lossy dtype with those in float32.

    Args:
        lossy: A route in the dtype that is judged, with reference vectors in its folder.
        texts: Natural texts, other than those that the dtype was made with.
        expected: Their vectors in float32, `[len(texts), dim]`.
        method: How the dtype was made.
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
            f"{made.parity_mean_cosine:.5f} and {made.parity_min_cosine:.5f}; use dtype='float32' on this machine"
        )
    return report


def _over_proof(runner: Runner) -> NDArray[np.float64]:
    """Cosines to the reference vectors in the bundle."""
    reference = np.load(runner.folder / runner.route.parity_vectors, allow_pickle=False)
    return cosines(graph_vectors(runner, read_texts(runner.folder, runner.route)), reference)


def _scale(vectors: Vectors) -> float:
    return max(1.0, float(np.linalg.norm(vectors, axis=1).max()))
