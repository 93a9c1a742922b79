"""What a type checker infers of the common calls. `mypy` reads this file; nothing runs it."""

from collections.abc import Iterator
from typing import Any, assert_type

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import embedrt
from embedrt import Embedder
from embedrt.types import DeviceName

Float32 = NDArray[np.float32]


def vectors(
    model: Embedder, texts: list[str], words: tuple[str, ...], array: NDArray[np.str_], more: Iterator[str]
) -> None:
    assert_type(model.encode("one"), Float32)
    assert_type(model.encode(["one", "two"]), Float32)
    assert_type(model.encode(texts), Float32)
    assert_type(model.encode(words), Float32)
    assert_type(model.encode(array), Float32)
    assert_type(model.encode(more), Float32)
    assert_type(model.encode(pd.Series(texts)), Float32)
    assert_type(model.encode(inputs=texts), Float32)
    assert_type(model.encode_query("one"), Float32)
    assert_type(model.encode_document(texts), Float32)
    assert_type(embedrt.encode(texts), Float32)
    assert_type(model.encode(texts, "query", None, 16, False), Float32)
    assert_type(model.encode(texts, prompt="query: ", batch_size=16, normalize_embeddings=True), Float32)
    assert_type(model.encode(texts, batch_size=None), Float32)
    assert_type(model.encode(texts, output_value="sentence_embedding", truncate_dim=64, device="cpu"), Float32)
    assert_type(model.encode(texts, convert_to_numpy=True, convert_to_tensor=False), Float32)
    assert_type(model.encode(texts, show_progress_bar=None, on_truncation="warn"), Float32)


def quantized(model: Embedder, texts: list[str]) -> None:
    assert_type(model.encode(texts, precision="float32"), Float32)
    assert_type(model.encode(texts, precision="int8"), NDArray[Any])
    assert_type(model.encode(texts, precision="binary"), NDArray[Any])
    assert_type(model.encode(texts, precision="uint8"), NDArray[Any])
    assert_type(model.encode_query("one", precision="ubinary", truncate_dim=64), NDArray[Any])


def tokens(model: Embedder, texts: list[str]) -> None:
    assert_type(model.encode("one", output_value="token_embeddings"), Any)
    assert_type(model.encode(texts, output_value="token_embeddings"), Any)
    assert_type(model.encode_document(texts, output_value="token_embeddings"), Any)
    assert_type(model.encode("one", output_value=None), Any)
    assert_type(model.encode(texts, output_value=None), Any)


def long_texts(model: Embedder, texts: list[str]) -> None:
    assert_type(model.encode_long("one"), Float32)
    assert_type(model.encode_long(texts, overlap=3, combine="max"), Float32)
    assert_type(model.encode_long("one", combine="none"), Float32)
    assert_type(model.encode_long(texts, combine="none"), list[Float32])
    assert_type(model.windows("one"), list[tuple[int, int]])
    assert_type(model.windows(texts), list[list[tuple[int, int]]])
    assert_type(model.encode_chunks("one two", [(0, 3)]), Float32)


async def from_a_loop(model: Embedder, texts: list[str]) -> None:
    assert_type(await model.aencode(texts), Float32)
    assert_type(await model.aencode("one", normalize_embeddings=True), Float32)


def others(model: Embedder, texts: list[str], a: Float32, b: Float32) -> None:
    assert_type(model.similarity(a, b), Float32)
    assert_type(model.similarity_pairwise(a, b), Float32)
    assert_type(model.device, DeviceName)
    assert_type(model.max_seq_length, int | None)
    assert_type(model.prompts, dict[str, str])
    assert_type(model.get_embedding_dimension(), int)
    assert_type(model.token_count("one"), int)
    assert_type(model.token_count(texts), list[int])
    assert_type(model.tokenize(texts), dict[str, NDArray[np.int64]])
    with model.truncate_embeddings(64):
        assert_type(model.encode(texts), Float32)


def wrong(model: Embedder, texts: list[str]) -> None:
    """Each line is an error; where it is none, mypy says that its comment is unused."""
    model.encode(5)  # type: ignore[call-overload]
    model.encode([1, 2])  # type: ignore[list-item]
    model.encode()  # type: ignore[call-overload]
    model.encode(texts, precision="float16")  # type: ignore[call-overload]
    model.encode(texts, output_value="tokens")  # type: ignore[call-overload]
    model.encode(texts, batch_size="3")  # type: ignore[call-overload]
    model.encode(texts, unknown=1)  # type: ignore[call-overload]
    model.encode_query(texts, on_truncation="never")  # type: ignore[call-overload]
    model.encode_document(texts, normalize_embeddings="yes")  # type: ignore[call-overload]
    model.similarity(texts)  # type: ignore[call-arg]
    Embedder("a-model", similarity_fn_name=5)  # type: ignore[arg-type]
