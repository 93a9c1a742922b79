"""Accuracy reports of a bundle's vectors, as stored in the manifest."""

from dataclasses import dataclass, field
from typing import Literal

MEAN_COSINE, MIN_COSINE = 0.999, 0.995
"""The lowest acceptable cosine similarity of a lossy dtype to float32: the mean over the texts, and of each text."""


@dataclass(frozen=True)
class ParityReport:
    """Parity report: the errors of vectors against the reference, over the parity texts of the route.

    Errors are absolute differences per coordinate, divided by the largest norm of a reference vector if that is above
    1, so that the tolerance also suits models without normalization.

    Attributes:
        kind: The type of report in the manifest.
        reference: The software that made the reference vectors, with versions.
        independent: False if the reference is the bundle's own graph, computed by another engine. That checks the
            engine, weight loading and batching, but not the graph itself.
        texts: Number of texts.
        max_tokens: Tokens of the longest text.
        tolerance: Upper bound for the two errors below.
        max_abs_error: Max absolute error to the reference.
        max_batch_error: Max absolute error between a text encoded alone and in a batch.
        max_norm_error: Max difference of the norms.
        min_cosine: Lowest cosine similarity to the reference.
        worst_text: Index of the text with `max_abs_error`.
        engine: Engine, version and execution provider that computed the vectors.
    """

    kind: Literal["parity"] = field(default="parity", kw_only=True)
    reference: str
    independent: bool
    texts: int
    max_tokens: int
    tolerance: float
    max_abs_error: float
    max_batch_error: float
    max_norm_error: float
    min_cosine: float
    worst_text: int
    engine: str

    @property
    def summary(self) -> str:
        """The report in one line."""
        return (
            f"{self.texts} texts of up to {self.max_tokens} tokens, max abs error {self.max_abs_error:.1e}, by batch "
            f"{self.max_batch_error:.1e} ({self.tolerance:.0e} allowed); reference: {self.reference}; on {self.engine}"
        )


@dataclass(frozen=True)
class QualityReport:
    """Quality report: the cosine similarity of vectors in a lossy dtype to those in float32.

    Attributes:
        kind: The type of report in the manifest.
        method: The quantization method and its calibration texts.
        texts: Number of held-out natural texts, none of which were calibration texts.
        max_tokens: Tokens of the longest text.
        mean_cosine: Mean cosine similarity to float32 over these texts.
        min_cosine: Lowest cosine similarity to float32 over these texts.
        mean_cosine_allowed: Lower bound for `mean_cosine`.
        min_cosine_allowed: Lower bound for `min_cosine`.
        parity_mean_cosine: Mean cosine similarity to the reference over the parity texts, many of them edge cases.
        parity_min_cosine: Lowest cosine similarity to the reference over the parity texts.
        max_batch_error: Max absolute error between a parity text encoded alone and in a batch.
        engine: Engine, version and execution provider that computed the vectors.
    """

    kind: Literal["quality"] = field(default="quality", kw_only=True)
    method: str
    texts: int
    max_tokens: int
    mean_cosine: float
    min_cosine: float
    mean_cosine_allowed: float
    min_cosine_allowed: float
    parity_mean_cosine: float
    parity_min_cosine: float
    max_batch_error: float
    engine: str

    @property
    def summary(self) -> str:
        """The report in one line."""
        return (
            f"{self.texts} texts of up to {self.max_tokens} tokens, cosine to float32 {self.mean_cosine:.6f} in the "
            f"mean, {self.min_cosine:.6f} at least, by batch {self.max_batch_error:.1e}; over the texts of the proof "
            f"{self.parity_mean_cosine:.6f} and {self.parity_min_cosine:.6f}; {self.method}; on {self.engine}"
        )

    @property
    def is_good(self) -> bool:
        """True if the cosine similarities reach their lower bounds."""
        return self.mean_cosine >= self.mean_cosine_allowed and self.min_cosine >= self.min_cosine_allowed
