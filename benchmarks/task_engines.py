"""Engines of `benchmarks.tasks`, each in a process of its own: `python -m benchmarks.task_engines LOADER JSON`."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bench.worker import Answer, serve

Score = Callable[[str, list[str]], NDArray[np.float32]]
Encode = Callable[[list[str]], Any]
_BATCH = 32
# Documents whose weights are compared: few, as a whole vocabulary of numbers each would count as memory.
_COMPARED = 16


def rerank_embedrt(model: str, bundle: str, dtype: str | None = None) -> Score:
    """`CrossEncoder` of embedrt."""
    from embedrt import CrossEncoder

    del model
    encoder = CrossEncoder(bundle, device="cpu", dtype=dtype)

    def score(query: str, documents: list[str]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = encoder.predict(
            [(query, document) for document in documents], activation_fn=lambda logits: logits
        )
        return scores

    return score


def rerank_sentence_transformers(model: str, bundle: str) -> Score:
    """`CrossEncoder` of sentence-transformers on torch."""
    import torch
    from sentence_transformers import CrossEncoder

    del bundle
    encoder = CrossEncoder(model, device="cpu", local_files_only=True)

    def score(query: str, documents: list[str]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = encoder.predict(
            [(query, document) for document in documents],
            batch_size=_BATCH,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return scores

    return score


def rerank_fastembed(model: str, bundle: str) -> Score:
    """`TextCrossEncoder` of fastembed, on the portable graph of the bundle."""
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    del model
    TextCrossEncoder.add_custom_model("benchmark", ModelSource(hf="benchmark/model"), "onnx/model.onnx")
    encoder = TextCrossEncoder("benchmark", specific_model_path=bundle)
    return lambda query, documents: np.array(list(encoder.rerank(query, documents)), np.float32)


def rerank_by_hand(model: str, bundle: str) -> Score:
    """ONNX Runtime and tokenizers as one writes them down: batches of 32 in the order given, padded."""
    import onnxruntime
    from tokenizers import Tokenizer

    del model
    tokenizer = Tokenizer.from_file(str(Path(bundle) / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(Path(bundle) / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def score(query: str, documents: list[str]) -> NDArray[np.float32]:
        scores = []
        for start in range(0, len(documents), _BATCH):
            encodings = tokenizer.encode_batch([(query, text) for text in documents[start : start + _BATCH]])
            fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
            feeds = {name: np.array([getattr(one, fields[name]) for one in encodings], np.int64) for name in names}
            scores.append(session.run(["logits"], feeds)[0][:, 0])
        return np.concatenate(scores)

    return score


def sparse_embedrt(model: str, bundle: str) -> Encode:
    """`SparseEncoder` of embedrt."""
    from embedrt import SparseEncoder

    del model
    encoder = SparseEncoder(bundle, device="cpu")

    def encode(documents: list[str]) -> Any:
        return encoder.encode_document(documents)

    return encode


def sparse_sentence_transformers(model: str, bundle: str) -> Encode:
    """`SparseEncoder` of sentence-transformers on torch."""
    from sentence_transformers import SparseEncoder

    del bundle
    encoder = SparseEncoder(model, device="cpu", local_files_only=True)
    return lambda documents: encoder.encode_document(documents, batch_size=_BATCH, show_progress_bar=False)


LOADERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        rerank_embedrt,
        rerank_sentence_transformers,
        rerank_fastembed,
        rerank_by_hand,
        sparse_embedrt,
        sparse_sentence_transformers,
    )
}
"""By name."""


def compared(values: Any) -> NDArray[np.float32]:
    """The values to compare: all scores, or the weights of the first documents as an array `[few, vocabulary]`."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "index_select"):  # sparse tensors have no slices
        values = values.cpu().to_dense()
    some = values[:_COMPARED]
    for method in ("to_scipy", "to_dense", "toarray", "numpy"):
        if hasattr(some, method):
            some = getattr(some, method)()
    return np.asarray(some, np.float32)


def main() -> None:
    """Serve one engine."""
    loader, options = sys.argv[1], json.loads(sys.argv[2])

    def load() -> dict[str, Callable[..., Answer]]:
        engine = LOADERS[loader](**options)

        def run(save: str, **items: Any) -> Answer:
            start = time.perf_counter()
            values = engine(**items)
            seconds = time.perf_counter() - start
            np.save(save, compared(values))
            return {"seconds": seconds}

        return {"run": run}

    serve(load)


if __name__ == "__main__":
    main()
