"""MTEB: an encoder and a cross-encoder for `mteb.evaluate`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedrt import CrossEncoder, Embedder, MissingDependencyError
from embedrt.integrations.choice import Choice
from embedrt.types import Vectors

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise MissingDependencyError("MTEB is not installed; run `pip install mteb`") from error


class EmbedrtEncoder(AbsEncoder):  # type: ignore[misc]
    """An encoder for `mteb.evaluate`. Prompts are chosen as MTEB does for sentence-transformers.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or an `Embedder`.
        revision: The revision in MTEB's results; None takes the fingerprint.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        truncate_dim: Coordinates to keep; None takes the model's.
        normalize: Scale vectors to length 1, after truncation.

    Example:
        >>> mteb.evaluate(EmbedrtEncoder("bundle/"), mteb.get_tasks(tasks=["STSBenchmark"]))
    """

    def __init__(
        self,
        model: str | Path | Embedder,
        revision: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        truncate_dim: int | None = None,
        normalize: bool = False,
    ) -> None:
        self._choice = Choice(model, device, dtype, threads, truncate_dim, normalize)
        self.model = opened = self._choice.embedder
        self.model_prompts = {name: text for name, text in opened.prompts.items() if text}
        self.mteb_model_meta = _meta(
            opened,
            revision,
            embed_dim=self._choice.dim,
            similarity_fn_name=ScoringFunction(opened.similarity_fn_name),
            use_instructions=bool(self.model_prompts),
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Vectors:
        """The vectors of texts; the options are those of `Embedder.encode`."""
        encode = {
            PromptType.query: self._choice.encode_query,
            PromptType.document: self._choice.encode_document,
            None: self._choice.encode,
        }[prompt_type]
        return encode(_texts(inputs), prompt_name=self.get_prompt_name(task_metadata, prompt_type), **kwargs)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """The model's similarity of all pairs."""
        return self._choice.embedder.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """The model's similarity of vectors at the same place."""
        return self._choice.embedder.similarity_pairwise(embeddings1, embeddings2)


class EmbedrtCrossEncoder:
    """A cross-encoder for reranking and retrieval tasks of `mteb.evaluate`.

    Args:
        model: A bundle folder, a name in the local store, a hub id, or a `CrossEncoder`.
        revision: The revision in MTEB's results; None takes the fingerprint.
        device: As for `CrossEncoder`.
        dtype: As for `CrossEncoder`.
        threads: As for `CrossEncoder`.
    """

    def __init__(
        self,
        model: str | Path | CrossEncoder,
        revision: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.model = (
            model
            if isinstance(model, CrossEncoder)
            else CrossEncoder(model, device=device, dtype=dtype, threads=threads)
        )
        self.mteb_model_meta = _meta(self.model, revision, model_type=["cross-encoder"])

    def predict(
        self,
        inputs1: Iterable[dict[str, Any]],
        inputs2: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Any:
        """The scores of pairs; the options are those of `CrossEncoder.predict`."""
        return self.model.predict(list(zip(_texts(inputs1), _texts(inputs2), strict=True)), **kwargs)


def _texts(batches: Iterable[dict[str, Any]]) -> list[str]:
    return [text for batch in batches for text in batch["text"]]


def _meta(model: Embedder | CrossEncoder, revision: str | None, **fields: Any) -> ModelMeta:
    """A model as MTEB's results have it. MTEB wants an organization in its name."""
    return ModelMeta.create_empty(
        {
            "name": model.name if "/" in model.name else f"embedrt/{model.name}",
            "revision": revision or model.fingerprint,
            "max_tokens": model.max_seq_length,
            "framework": ["ONNX"],
            **fields,
        }
    )
