"""Parity: a bundle's vectors against reference vectors, by max absolute error and norm.

Lossy dtypes are measured by cosine similarity to float32 instead, over held-out texts; those of models that score
pairs, by the order of the scores.
"""

import dataclasses
import json
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Route, Variant
from embedrt.bundle.opened import BundleFiles
from embedrt.bundle.reports import (
    MEAN_COSINE,
    MIN_COSINE,
    MULTI_VECTOR_MEAN_COSINE,
    MULTI_VECTOR_MIN_COSINE,
    RANKS_ALLOWED,
    Accuracy,
    ParityReport,
    QualityReport,
    RankReport,
)
from embedrt.bundle.strict_json import RecordError, decode, parse_json
from embedrt.errors import BundleError, ParityError, QualityError
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_tokens, graph_values, graph_values_in_one_batch, width_of
from embedrt.types import Task, Vectors
from embedrt.vectors.files import write_matrix
from embedrt.verify.ranks import agreement, orders, probabilities

TOLERANCE = 1e-5
"""Upper bound for the error of float32 vectors, per coordinate of a vector of length 1."""

# Allowed loss of cosine similarity on another machine, whose float32 kernels round differently; at most as much as the
# dtype may lose in the mean.
_SLACK = 0.001
# Allowed growth of the error of logits there, as a factor and beyond it.
_GROWTH, _ADDED = 1.5, 0.001


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

Item: TypeAlias = str | tuple[str, str]
"""A text, or a pair of texts for a model that scores pairs."""
# The ending of files with reference values that are mostly zeros.
_COMPRESSED = ".npz"
_MEMBER = "values.npy"
# More than any export writes; a damaged file may claim to be larger than the memory.
_MOST_BYTES = 1 << 31
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
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_reference(folder: Path, route: Route, items: Sequence[Item], values: Vectors) -> None:
    """Write the parity texts, or pairs, and the reference values of a route into a bundle."""
    (folder / route.parity_texts).parent.mkdir(exist_ok=True)
    (folder / route.parity_texts).write_bytes(json.dumps(items, ensure_ascii=True, indent=1).encode() + b"\n")
    with (folder / route.parity_vectors).open("wb") as file:
        if route.parity_vectors.endswith(_COMPRESSED):
            np.savez_compressed(file, values=values.astype(np.float32))
        else:
            write_matrix(file, values.astype(np.float32))


def verify_route(runner: Runner) -> ParityReport | Accuracy:
    """Encode the parity texts on this machine, and compare the vectors with the reference vectors in the bundle.

    Raises:
        ParityError: An error is above the tolerance.
        QualityError: The dtype is lossy, and its vectors are worse than at export.
    """
    runner = runner.with_max_seq_length(runner.route.parity_max_seq_length)
    made = runner.placement.variant.proof
    if isinstance(made, QualityReport):
        return _verify_quality(runner, made)
    if isinstance(made, RankReport):
        return _verify_ranks(runner, made)
    if made is None:
        raise BundleError(f"{runner.folder}: {runner.placement.variant.file} has no proof; export the model again")
    bound = bound_of(runner.placement.variant, runner.placement.dtype)
    items = read_parity_items(runner.files, runner.route, runner.task)
    return compare(
        runner,
        items,
        _read_parity_vectors(runner, len(items)),
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
    if isinstance(variant.proof, RankReport):
        return Bound(_allowed_error(variant.proof))
    return Bound(TOLERANCE if variant.proof is None else variant.proof.tolerance)


def read_parity_items(files: BundleFiles, route: Route, task: Task) -> list[Item]:
    """Read the parity texts of a route, or the pairs of a model that scores pairs.

    Raises:
        BundleError: The file is not a list of them.
    """
    name = str(files.folder / route.parity_texts)
    return parity_items_of(files.read_bytes(route.parity_texts), name, task)


def _read_parity_vectors(runner: Runner, items: int) -> Vectors:
    """Read the reference values of the parity texts, float32 `[items, n]`."""
    name, shape = runner.route.parity_vectors, (items, width_of(runner))
    content = runner.files.read_bytes(name)
    return parity_vectors_of(content, str(runner.folder / name), shape, ragged=runner.task == "multi-vector")


def parity_items_of(content: bytes, name: str, task: Task = "embed") -> list[Item]:
    """Decode a file of parity texts, or of the pairs of a model that scores pairs.

    Raises:
        BundleError: It is not a list of them.
    """
    items: list[Item] = []
    try:
        raw = parse_json(content, name)
        if task == "score":
            for i, pair in enumerate(decode(tuple[tuple[str, ...], ...], raw, name)):
                if len(pair) != 2:
                    raise BundleError(f"{name}[{i}]: expected a pair of texts, got {len(pair)}; get the bundle again")
                items.append((pair[0], pair[1]))
        else:
            items.extend(decode(tuple[str, ...], raw, name))
    except RecordError as error:
        raise BundleError(f"{error}; get the bundle again") from error
    if not items:
        raise BundleError(f"{name}: expected texts, got none; get the bundle again")
    return items


def parity_vectors_of(content: bytes, name: str, shape: tuple[int, int], *, ragged: bool = False) -> Vectors:
    """Decode a file of reference values, in the format of NumPy.

    Args:
        content: The file.
        name: Its name, for messages.
        shape: The expected shape, `[items, width]`.
        ragged: True if a row has several vectors of this width.

    Raises:
        BundleError: It is not a matrix of finite float32 numbers of this shape.
    """
    try:
        vectors = _read_array(content, compressed=name.endswith(_COMPRESSED))
    except _DAMAGED as error:
        raise BundleError(f"{name}: not a NumPy file: {str(error)[:200]}; get the bundle again") from error
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = vectors.dtype == np.float32 and np.isfinite(np.linalg.norm(vectors, axis=-1)).all()
    fits = vectors.shape == shape
    if ragged and vectors.ndim == 2:
        fits = len(vectors) == shape[0] and vectors.shape[1] % shape[1] == 0
    if not fits or not is_finite:
        raise BundleError(
            f"{name}: expected finite float32 vectors [{shape[0]}, {shape[1]}], got {vectors.dtype} "
            f"{list(vectors.shape)}; get the bundle again"
        )
    found: Vectors = vectors
    return found


def _read_array(content: bytes, *, compressed: bool) -> NDArray[Any]:
    if not compressed:
        return np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        if (size := archive.getinfo(_MEMBER).file_size) > _MOST_BYTES:
            raise ValueError(f"{size} bytes")
        with archive.open(_MEMBER) as member:
            return np.lib.format.read_array(BytesIO(member.read(_MOST_BYTES)), allow_pickle=False)


def compare(
    runner: Runner,
    items: Sequence[Item],
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
        items: The texts, or pairs.
        reference: The reference values `[items, n]`, before truncation.
        reference_name: The software that made the reference values.
        independent: See `ParityReport`.
        tolerance: Upper bound for the errors.
        min_cosine: Lower bound for the cosine similarities.

    Raises:
        ParityError: An error is above the tolerance, or a cosine similarity is below `min_cosine`.
    """
    counts: list[int] = graph_tokens(runner, items).lengths.tolist()
    width = reference.shape[1]
    alone = stacked([graph_values(runner, [item])[0] for item in items], width)
    planned = stacked(graph_values(runner, items), width)
    padded = stacked(_in_mixed_batches(runner, items, counts), width)
    scale = _scale(reference, width_of(runner))
    errors = np.maximum(np.abs(planned - reference), np.abs(alone - reference)).max(axis=1) / scale
    batch_errors = np.maximum(np.abs(planned - alone), np.abs(padded - alone)).max(axis=1) / scale
    norms = np.abs(np.linalg.norm(planned, axis=1) - np.linalg.norm(reference, axis=1)) / scale
    report = ParityReport(
        reference=reference_name,
        independent=independent,
        texts=len(items),
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
            f"  {errors[i]:.1e} to the reference, {batch_errors[i]:.1e} by batch: texts[{i}] = {str(items[i])[:60]!r}"
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


def _in_mixed_batches(runner: Runner, items: Sequence[Item], counts: list[int]) -> list[Vectors]:
    """Compute every item in a batch with items of all lengths, so that short rows are mostly padding."""
    by_length = np.argsort(counts, kind="stable")
    vectors: list[Vectors] = [np.empty(0, np.float32)] * len(items)
    groups = -(-len(items) // 4)
    for start in range(groups):
        rows = by_length[start::groups]
        for row, values in zip(rows, graph_values_in_one_batch(runner, [items[i] for i in rows]), strict=True):
            vectors[row] = values
    return vectors


def stacked(rows: Iterable[Vectors], width: int) -> Vectors:
    """Stack rows of graph values, which are shorter where an item has fewer tokens, with zeros behind each.

    Args:
        rows: Rows of at most `width` values, each float32 `[n]`.
        width: The width of the matrix.

    Returns:
        float32 `[rows, width]`.

    Raises:
        ParityError: A row is longer.
    """
    rows = list(rows)
    values = np.zeros((len(rows), width), np.float32)
    for i, row in enumerate(rows):
        if len(row) > width:
            raise ParityError(f"texts[{i}]: expected at most {width} values, as in the reference, got {len(row)}")
        values[i, : len(row)] = row
    return values


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Cosine similarities of the rows of two matrices `[n, dim]`, float64 `[n]`; 1 for two rows of zeros."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1), np.linalg.norm(b64, axis=1)
    cosines: NDArray[np.float64] = (a64 * b64).sum(axis=1) / np.maximum(norms[0] * norms[1], 1e-30)
    return np.where((norms[0] == 0) & (norms[1] == 0), 1.0, cosines)


def measure_quality(
    lossy: Runner,
    items: Sequence[Item],
    expected: Vectors,
    method: str,
    allowed: tuple[float, float] | None = None,
) -> QualityReport:
    """Compare the vectors of a lossy dtype with those in float32.

    Args:
        lossy: A route in the lossy dtype, with reference vectors in its bundle.
        items: Held-out natural texts, none of them calibration texts.
        expected: The float32 values of the texts, `[items, n]`.
        method: The quantization method, for the report.
        allowed: The lowest acceptable cosine similarity, mean and minimum; None takes those of int8.
    """
    mean_allowed, min_allowed = (MEAN_COSINE, MIN_COSINE) if allowed is None else allowed
    natural = cosines(stacked(graph_values(lossy, items), expected.shape[1]), expected)
    edge_cases, batch_error = _edge_cases(lossy)
    return QualityReport(
        method=method,
        texts=len(items),
        max_tokens=int(graph_tokens(lossy, items).lengths.max()),
        mean_cosine=float(natural.mean()),
        min_cosine=float(natural.min()),
        mean_cosine_allowed=mean_allowed,
        min_cosine_allowed=min_allowed,
        parity_mean_cosine=float(edge_cases.mean()),
        parity_min_cosine=float(edge_cases.min()),
        max_batch_error=batch_error,
        engine=lossy.engine.description,
    )


def measure_ranks(lossy: Runner, items: Sequence[Item], expected: Vectors, method: str) -> RankReport:
    """Compare the scores of a lossy dtype, and their order, with those in float32.

    Args:
        lossy: A route in the lossy dtype, with reference values in its bundle.
        items: Held-out pairs, several for each query.
        expected: The float32 logits of the pairs, `[items, labels]`.
        method: The quantization method, for the report.
    """
    found = graph_values(lossy, items)
    chosen = list(orders(items, expected))
    by_order = [(expected.reshape(-1)[rows], found.reshape(-1)[rows]) for rows in chosen]
    errors = np.abs(probabilities(found) - probabilities(expected))
    least_agreement, largest_error = RANKS_ALLOWED[lossy.placement.dtype]
    parity_error, batch_error = _parity_errors(lossy)
    return RankReport(
        method=method,
        texts=len(items),
        max_tokens=int(graph_tokens(lossy, items).lengths.max()),
        mean_agreement=float(np.mean([agreement(ours, theirs) for ours, theirs in by_order])),
        top_agreement=float(np.mean([ours.argmax() == theirs.argmax() for ours, theirs in by_order])),
        mean_score_error=float(errors.mean()),
        max_score_error=float(errors.max()),
        mean_agreement_allowed=least_agreement,
        mean_score_error_allowed=largest_error,
        parity_max_abs_error=parity_error,
        max_batch_error=batch_error,
        engine=lossy.engine.description,
    )


def measure(
    lossy: Runner,
    items: Sequence[Item],
    expected: Vectors,
    method: str,
    allowed: tuple[float, float] | None = None,
) -> Accuracy:
    """Compare what a lossy dtype computes with float32: scores by their order, all else by cosine similarity."""
    if lossy.task == "score":
        return measure_ranks(lossy, items, expected, method)
    if lossy.task == "multi-vector" and allowed is None:
        allowed = (MULTI_VECTOR_MEAN_COSINE, MULTI_VECTOR_MIN_COSINE)
    return measure_quality(lossy, items, expected, method, allowed)


def _verify_ranks(runner: Runner, made: RankReport) -> RankReport:
    """Score the parity pairs on this machine, and compare the errors with those at export.

    Returns:
        The report of the export, with the errors measured here.

    Raises:
        QualityError: The scores are worse here.
    """
    error, batch_error = _parity_errors(runner)
    if not error <= _allowed_error(made):
        raise QualityError(
            f"the scores of {runner.name} are worse here than where they were exported: max absolute error to the "
            f"reference {error:.1e}, at export {made.parity_max_abs_error:.1e}; use dtype='float32' on this machine"
        )
    return dataclasses.replace(
        made, parity_max_abs_error=error, max_batch_error=batch_error, engine=runner.engine.description
    )


def _allowed_error(made: RankReport) -> float:
    return _GROWTH * made.parity_max_abs_error + _ADDED


def _parity_errors(runner: Runner) -> tuple[float, float]:
    """Compute the parity items alone and in batches.

    Returns:
        The max absolute error to the reference values, and between the two; divided by the largest norm above 1.
    """
    reference, planned, alone = _parity_values(runner)
    scale = _scale(reference, width_of(runner))
    error = max(np.abs(planned - reference).max(), np.abs(alone - reference).max())
    return float(error) / scale, float(np.abs(planned - alone).max()) / scale


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
    reference, planned, alone = _parity_values(runner)
    similar = np.minimum(cosines(planned, reference), cosines(alone, reference))
    return similar, float(np.abs(planned - alone).max()) / _scale(reference, width_of(runner))


def _parity_values(runner: Runner) -> tuple[Vectors, Vectors, Vectors]:
    """Reference values of the parity items, and the values here in batches and alone."""
    items = read_parity_items(runner.files, runner.route, runner.task)
    reference = _read_parity_vectors(runner, len(items))
    width = reference.shape[1]
    planned = stacked(graph_values(runner, items), width)
    return reference, planned, stacked([graph_values(runner, [item])[0] for item in items], width)


def _scale(values: Vectors, width: int) -> float:
    """The largest norm of a vector, but at least 1."""
    return max(1.0, float(np.linalg.norm(values.reshape(-1, width), axis=1).max()))
