"""scikit-learn: a transformer from texts to vectors."""

from pathlib import Path
from typing import Any, Self

import numpy as np

from embedrt import Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.types import Vectors

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError as error:
    raise MissingDependencyError("scikit-learn is not installed; run `pip install scikit-learn`") from error


class EmbedrtTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer from texts to vectors, float32 `[texts, coordinates]`.

    `fit` learns nothing but the model's fingerprint, which `transform` checks: what comes after it in a pipeline was
    trained on vectors of that model. Pickles hold the name and the options, not the model.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`; 1 where scikit-learn itself uses all cores (`n_jobs`).
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.
        prompt_name: The model's prompt to put before every text; None takes the model's default, if any.

    Attributes:
        fingerprint_: The fingerprint of the model that was fitted.

    Example:
        >>> make_pipeline(EmbedrtTransformer("bundle/"), LogisticRegression()).fit(texts, labels)
    """

    def __init__(
        self,
        model: str | Path | Embedder,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        truncate_dim: int | None = None,
        normalize: bool = False,
        prompt_name: str | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        self.threads = threads
        self.truncate_dim = truncate_dim
        self.normalize = normalize
        self.prompt_name = prompt_name

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - the names of scikit-learn
        """Note the model's fingerprint."""
        self.fingerprint_ = self._choice(None).embedder.fingerprint
        return self

    def transform(self, X: Any) -> Vectors:  # noqa: N803
        """Encode texts: any iterable of str, a Series, or an array or data frame with one column.

        Raises:
            EmbeddingsError: The model is another one than when it was fitted.
        """
        texts = np.asarray(X, dtype=object) if hasattr(X, "__array__") else X
        if isinstance(texts, np.ndarray) and texts.ndim == 2 and texts.shape[1] == 1:
            texts = texts[:, 0]
        return self._choice(getattr(self, "fingerprint_", None)).encode(texts, prompt_name=self.prompt_name)

    def _choice(self, fingerprint: str | None) -> Choice:
        return Choice(self.model, self.device, self.dtype, self.threads, self.truncate_dim, self.normalize, fingerprint)

    @property
    def _n_features_out(self) -> int:
        """The number of output features, as `get_feature_names_out` reads it."""
        return self._choice(None).dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        tags.requires_fit = False
        return tags
