"""Accuracy reports of a bundle's vectors, as stored in the manifest."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

MEAN_COSINE, MIN_COSINE = 0.999, 0.995
"""The lowest acceptable cosine similarity of a lossy dtype to float32: the mean over the texts, and of each text."""
MULTI_VECTOR_MEAN_COSINE, MULTI_VECTOR_MIN_COSINE = 0.998, 0.99
"""The same for the vectors of all tokens of a text. MaxSim adds up over tokens, so that their errors average out."""
RANKS_ALLOWED = {"int8": (0.9, 0.02), "float16": (0.99, 0.002), "bfloat16": (0.95, 0.01)}
"""By dtype, the lowest acceptable rank correlation with float32, and the largest mean score error."""


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
    def accuracy(self) -> str:
        """Measured values and their bounds, in words."""
        return (
            f"the cosine similarity to float32 is {self.mean_cosine:.6f} on average and {self.min_cosine:.6f} at "
            f"worst; expected at least {self.mean_cosine_allowed} and {self.min_cosine_allowed}"
        )

    @property
    def is_good(self) -> bool:
        """True if the cosine similarities reach their lower bounds."""
        return self.mean_cosine >= self.mean_cosine_allowed and self.min_cosine >= self.min_cosine_allowed


@dataclass(frozen=True)
class RankReport:
    """Rank report: the scores of a lossy dtype, and the order that they give, against those in float32.

    With one label, the documents of a query are in order of their scores; with several, the labels of a pair are.
    Agreement is Kendall's rank correlation: 1 for the same order, 0 for an unrelated one. Score errors are absolute
    differences of probabilities: of the sigmoid of one label's logit, or of the softmax over several.

    Attributes:
        kind: The type of report in the manifest.
        method: The quantization method and its calibration texts.
        texts: Number of held-out pairs, none of which were calibration pairs.
        max_tokens: Tokens of the longest pair.
        mean_agreement: Mean agreement with the order in float32.
        top_agreement: Share of orders whose first is that in float32.
        mean_score_error: Mean score error.
        max_score_error: Max score error.
        mean_agreement_allowed: Lower bound for `mean_agreement`.
        mean_score_error_allowed: Upper bound for `mean_score_error`.
        parity_max_abs_error: Max absolute error of logits to the reference over the parity pairs, divided as in a
            parity report.
        max_batch_error: Max absolute error between the logits of a parity pair alone and in a batch, divided likewise.
        engine: Engine, version and execution provider that computed the scores.
    """

    kind: Literal["ranks"] = field(default="ranks", kw_only=True)
    method: str
    texts: int
    max_tokens: int
    mean_agreement: float
    top_agreement: float
    mean_score_error: float
    max_score_error: float
    mean_agreement_allowed: float
    mean_score_error_allowed: float
    parity_max_abs_error: float
    max_batch_error: float
    engine: str

    @property
    def summary(self) -> str:
        """The report in one line."""
        return (
            f"{self.texts} pairs of up to {self.max_tokens} tokens, rank correlation with float32 "
            f"{self.mean_agreement:.4f} in the mean, the same first in {self.top_agreement:.1%}, score error "
            f"{self.mean_score_error:.1e} in the mean, {self.max_score_error:.1e} at most; over the pairs of the proof "
            f"max abs error {self.parity_max_abs_error:.1e}, by batch {self.max_batch_error:.1e}; {self.method}; on "
            f"{self.engine}"
        )

    @property
    def accuracy(self) -> str:
        """Measured values and their bounds, in words."""
        return (
            f"the rank correlation with float32 is {self.mean_agreement:.4f} on average, and the mean score error "
            f"{self.mean_score_error:.4f}; expected at least {self.mean_agreement_allowed} and at most "
            f"{self.mean_score_error_allowed}"
        )

    @property
    def is_good(self) -> bool:
        """True if the measured values are within their bounds."""
        return (
            self.mean_agreement >= self.mean_agreement_allowed
            and self.mean_score_error <= self.mean_score_error_allowed
        )


Accuracy: TypeAlias = QualityReport | RankReport
"""The report of a lossy dtype."""
