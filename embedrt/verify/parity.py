"""Parity: a bundle's vectors against reference vectors, by max absolute error and norm.

Lossy dtypes are measured by cosine similarity to float32 instead, over held-out texts.
"""

import dataclasses
import json
import tokenize
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Route, Variant
from embedrt.bundle.opened import BundleFiles
from embedrt.bundle.reports import MEAN_COSINE, MIN_COSINE, ParityReport, QualityReport
from embedrt.bundle.strict_json import RecordError, decode, parse_json
from embedrt.errors import BundleError, ParityError, QualityError
from embedrt.run.runner import Runner
from embedrt.tasks.embed import graph_vectors, graph_vectors_in_one_batch
from embedrt.types import SENTENCE, Vectors
from embedrt.vectors.files import write_matrix

TOLERANCE = 1e-5
"""Upper bound for the error of float32 vectors, per coordinate of a vector of length 1."""

# Allowed loss of cosine similarity on another machine, whose float32 kernels round differently; at most as much as the
# dtype may lose in the mean.
_SLACK = 0.001


@dataclass(frozen=True)
class Bound:
    """The allowed difference between vectors and the reference.

    Attributes:
        tolerance: Upper bound for the absolute error of a coordinate, for vectors of length 1.
        min_cosine: Lower bound for the cosine similarity.
    """

    tolerance: float
    min_cosine: float = -1.0


COMPUTED = {"bfloat16": Bound(1e-2, 0.999), "tf32": Bound(1e-2 / 8, 1 - 1e-3 / 8**2)}
"""Bounds for a float32 graph that a device computes in another dtype, which no export measures.

bfloat16 has 8 significant bits, so each rounding has a relative error of up to 2**-9, and the errors of a model's
layers add up like random numbers. A cosine similarity of 0.999 is a distance of `sqrt(2 * (1 - 0.999))` = 0.045. A
larger error is a bug, not rounding. TF32 has 11 significant bits, so each rounding is an eighth of that; distances
shrink in proportion, and `1 - cosine` with their square.
"""

# What NumPy raises on damaged files.
_DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RecursionError,
    tokenize.TokenError,
)


def save_reference(folder: Path, route: Route, texts: list[str], vectors: Vectors) -> None:
    """Write the parity texts and reference vectors of a route into a bundle."""
    (folder / route.parity_texts).parent.mkdir(exist_ok=True)
    (folder / route.parity_texts).write_bytes(json.dumps(texts, ensure_ascii=True, indent=1).encode() + b"\n")
    with (folder / route.parity_vectors).open("wb") as file:
        write_matrix(file, vectors.astype(np.float32))


def verify_route(runner: Runner) -> ParityReport | QualityReport:
    """Encode the parity texts on this machine, and compare the vectors with the reference vectors in the bundle.

    Raises:
        ParityError: An error is above the tolerance.
        QualityError: The dtype is lossy, and its vectors are worse than at export.
    """
    runner = runner.with_max_seq_length(runner.route.parity_max_seq_length)
    made = runner.placement.variant.proof
    if isinstance(made, QualityReport):
        return _verify_quality(runner, made)
    if made is None:
        raise BundleError(f"{runner.folder}: {runner.placement.variant.file} has no proof; export the model again")
    bound = bound_of(runner.placement.variant, runner.placement.dtype)
    texts = read_parity_texts(runner.files, runner.route)
    return compare(
        runner,
        texts,
        _read_parity_vectors(runner, len(texts)),
        made.reference,
        independent=made.independent,
        tolerance=bound.tolerance,
        min_cosine=bound.min_cosine,
    )


def bound_of(variant: Variant, dtype: str) -> Bound:
    """The bound for a variant, computed in its own dtype or in another."""
    if dtype != variant.dtype:
        return COMPUTED[dtype]
    if isinstance(variant.proof, QualityReport):
        cosine = variant.proof.parity_min_cosine - _SLACK
        return Bound(sqrt(2 * (1 - cosine)), cosine)  # the distance of two vectors of length 1
    return Bound(TOLERANCE if variant.proof is None else variant.proof.tolerance)


def read_parity_texts(files: BundleFiles, route: Route) -> list[str]:
    """Read the parity texts of a route.

    Raises:
        BundleError: The file is not a list of texts.
    """
    return parity_texts_of(files.read_bytes(route.parity_texts), str(files.folder / route.parity_texts))


def _read_parity_vectors(runner: Runner, texts: int) -> Vectors:
    """Read the reference vectors of the parity texts, float32 `[texts, dim]`."""
    name, shape = runner.route.parity_vectors, (texts, runner.widths[SENTENCE])
    return parity_vectors_of(runner.files.read_bytes(name), str(runner.folder / name), shape)


def parity_texts_of(content: bytes, name: str) -> list[str]:
    """Decode a file of parity texts.

    Raises:
        BundleError: It is not a list of texts.
    """
    try:
        texts = list(decode(tuple[str, ...], parse_json(content, name), name))
    except RecordError as error:
        raise BundleError(f"{error}; get the bundle again") from error
    if not texts:
        raise BundleError(f"{name}: expected texts, got none; get the bundle again")
    return texts


def parity_vectors_of(content: bytes, name: str, shape: tuple[int, int]) -> Vectors:
    """Decode a file of reference vectors, in the format of NumPy.

    Raises:
        BundleError: It is not a matrix of finite float32 numbers of this shape.
    """
    try:
        vectors = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    except _DAMAGED as error:
        raise BundleError(f"{name}: not a NumPy file: {str(error)[:200]}; get the bundle again") from error
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = vectors.dtype == np.float32 and np.isfinite(np.linalg.norm(vectors, axis=-1)).all()
    if vectors.shape != shape or not is_finite:
        raise BundleError(
            f"{name}: expected finite float32 vectors [{shape[0]}, {shape[1]}], got {vectors.dtype} "
            f"{list(vectors.shape)}; get the bundle again"
        )
    found: Vectors = vectors
    return found


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
    """Measure the errors of texts encoded alone, in planned batches, and in batches with much padding.

    Args:
        runner: The route to measure.
        texts: The texts.
        reference: The reference vectors `[texts, dim]`, before truncation.
        reference_name: The software that made the reference vectors.
        independent: See `ParityReport`.
        tolerance: Upper bound for the errors.
        min_cosine: Lower bound for the cosine similarities.

    Raises:
        ParityError: An error is above the tolerance, or a cosine similarity is below `min_cosine`.
    """
    counts: list[int] = runner.tokenize(texts).lengths.tolist()
    alone = np.concatenate([graph_vectors(runner, [text]) for text in texts])
    planned = graph_vectors(runner, texts)
    padded = _in_mixed_batches(runner, texts, counts)
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
            f"{worst.max():.1e} in a coordinate; the tolerance is {tolerance:.0e}; the worst texts:\n{shown}"
        )
    if not report.min_cosine >= min_cosine:
        raise ParityError(
            f"the vectors of {runner.name}: expected a cosine similarity of at least {min_cosine} to {reference_name}, "
            f"got {report.min_cosine:.6f}"
        )
    return report


def _in_mixed_batches(runner: Runner, texts: list[str], counts: list[int]) -> Vectors:
    """Encode every text in a batch with texts of all lengths, so that short rows are mostly padding."""
    by_length = np.argsort(counts, kind="stable")
    vectors = np.empty((len(texts), runner.widths[SENTENCE]), np.float32)
    groups = -(-len(texts) // 4)
    for start in range(groups):
        rows = by_length[start::groups]
        vectors[rows] = graph_vectors_in_one_batch(runner, [texts[i] for i in rows])
    return vectors


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Cosine similarities of the rows of two matrices `[n, dim]`, float64 `[n]`."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosines: NDArray[np.float64] = (a64 * b64).sum(axis=1) / np.maximum(norms, 1e-30)
    return cosines


def measure_quality(
    lossy: Runner,
    texts: list[str],
    expected: Vectors,
    method: str,
    allowed: tuple[float, float] | None = None,
) -> QualityReport:
    """Compare the vectors of a lossy dtype with those in float32.

    Args:
        lossy: A route in the lossy dtype, with reference vectors in its bundle.
        texts: Held-out natural texts, none of them calibration texts.
        expected: The float32 vectors of the texts, `[texts, dim]`.
        method: The quantization method, for the report.
        allowed: The lowest acceptable cosine similarity, mean and minimum; None takes those of int8.
    """
    mean_allowed, min_allowed = (MEAN_COSINE, MIN_COSINE) if allowed is None else allowed
    natural = cosines(graph_vectors(lossy, texts), expected)
    edge_cases, batch_error = _edge_cases(lossy)
    return QualityReport(
        method=method,
        texts=len(texts),
        max_tokens=int(lossy.tokenize(texts).lengths.max()),
        mean_cosine=float(natural.mean()),
        min_cosine=float(natural.min()),
        mean_cosine_allowed=mean_allowed,
        min_cosine_allowed=min_allowed,
        parity_mean_cosine=float(edge_cases.mean()),
        parity_min_cosine=float(edge_cases.min()),
        max_batch_error=batch_error,
        engine=lossy.engine.description,
    )


def _verify_quality(runner: Runner, made: QualityReport) -> QualityReport:
    """Encode the parity texts on this machine, and compare their cosine similarities with those at export.

    Returns:
        The report of the export, with the similarities and the error by batch measured here.

    Raises:
        QualityError: The vectors are worse here.
    """
    found, batch_error = _edge_cases(runner)
    report = dataclasses.replace(
        made,
        parity_mean_cosine=float(found.mean()),
        parity_min_cosine=float(found.min()),
        max_batch_error=batch_error,
        engine=runner.engine.description,
    )
    slack = min(_SLACK, 1 - made.mean_cosine_allowed)
    if not (
        report.parity_mean_cosine >= made.parity_mean_cosine - slack
        and report.parity_min_cosine >= made.parity_min_cosine - slack
    ):
        raise QualityError(
            f"the vectors of {runner.name} are worse here than where they were exported: cosine similarity to the "
            f"reference {report.parity_mean_cosine:.5f} mean, {report.parity_min_cosine:.5f} min; at export "
            f"{made.parity_mean_cosine:.5f} mean, {made.parity_min_cosine:.5f} min; use dtype='float32' on this machine"
        )
    return report


def _edge_cases(runner: Runner) -> tuple[NDArray[np.float64], float]:
    """Encode the parity texts in batches and alone: on a GPU, the kernel of a matmul depends on the size of the batch.

    Returns:
        The lower cosine similarity of each text to the reference vectors in the bundle, float64 `[texts]`, and the max
        absolute difference between the two.
    """
    texts = read_parity_texts(runner.files, runner.route)
    reference = _read_parity_vectors(runner, len(texts))
    planned = graph_vectors(runner, texts)
    alone = np.concatenate([graph_vectors(runner, [text]) for text in texts])
    similar = np.minimum(cosines(planned, reference), cosines(alone, reference))
    return similar, float(np.abs(planned - alone).max()) / _scale(reference)


def _scale(vectors: Vectors) -> float:
    return max(1.0, float(np.linalg.norm(vectors, axis=1).max()))
