"""What is proven of a bundle's vectors, as the manifest keeps it."""

from dataclasses import dataclass, field
from typing import Literal

MEAN_COSINE, MIN_COSINE = 0.999, 0.995
"""What the cosines to float32 have to be, in the mean and each, for a dtype to be worth its speed."""


@dataclass(frozen=True)
class ParityReport:
    """Errors of vectors against the reference, over the texts that the route names.

    Errors are absolute differences of single coordinates, divided by the largest norm of a reference vector where that
    is above 1, so that models without normalization are judged alike.

    Attributes:
        kind: Tells this report from others in the manifest.
        reference: The software that made the reference vectors, with versions.
        independent: False if the reference is the bundle's own graph, computed by another engine: that proves the
            engine, the weights' way into it and the batching, but not that the graph is the right one.
        texts: Number of texts.
        max_tokens: Tokens of the longest one.
        tolerance: The largest value allowed for the two errors below.
        max_abs_error: Worst coordinate over all texts.
        max_batch_error: Worst coordinate between a text encoded alone and among others.
        max_norm_error: Worst difference of a vector's length.
        min_cosine: Smallest cosine to the reference.
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
        """The report in a line."""
        return (
            f"{self.texts} texts of up to {self.max_tokens} tokens, max abs error {self.max_abs_error:.1e}, by batch "
            f"{self.max_batch_error:.1e} ({self.tolerance:.0e} allowed); reference: {self.reference}; on {self.engine}"
        )


@dataclass(frozen=True)
class QualityReport:
    """Cosine similarity of vectors in a lossy dtype to those in float32.

    Attributes:
        kind: Tells this report from others in the manifest.
        method: The quantization method and its calibration texts.
        texts: Number of natural texts that it was judged by; it was made with others.
        max_tokens: Tokens of the longest one.
        mean_cosine: Mean cosine to the vector in float32 over these texts.
        min_cosine: The smallest.
        mean_cosine_allowed: The smallest `mean_cosine` allowed.
        min_cosine_allowed: The smallest `min_cosine` allowed.
        parity_mean_cosine: Mean cosine to the reference over the texts of the proof, many of which are odd.
        parity_min_cosine: The smallest.
        max_batch_error: Worst coordinate between a text encoded alone and among others.
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
        """The report in a line."""
        return (
            f"{self.texts} texts of up to {self.max_tokens} tokens, cosine to float32 {self.mean_cosine:.5f} in the "
            f"mean, {self.min_cosine:.5f} at least, by batch {self.max_batch_error:.1e}; over the texts of the proof "
            f"{self.parity_mean_cosine:.5f} and {self.parity_min_cosine:.5f}; {self.method}; on {self.engine}"
        )

    @property
    def is_good(self) -> bool:
        """Whether the vectors are as near as they have to be."""
        return self.mean_cosine >= self.mean_cosine_allowed and self.min_cosine >= self.min_cosine_allowed
