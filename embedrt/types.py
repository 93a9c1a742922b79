"""Shared types: texts and vectors, the dtypes of a model, and the overloads of `encode`."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from inspect import Signature, signature
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor  # noqa: TID251 - an annotation only; torch is optional

Texts: TypeAlias = str | Iterable[str]
Vectors: TypeAlias = NDArray[np.float32]
Features: TypeAlias = dict[str, NDArray[Any]]

OnTruncation = Literal["ignore", "warn", "error"]
OutputValue = Literal["sentence_embedding", "token_embeddings"]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
"""The number formats of stored vectors."""


class Pool(Protocol):
    """A process pool, as `start_multi_process_pool` returns it."""

    def close(self) -> None:
        """Stop the processes."""


SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
"""The names of the similarity functions of vectors."""
MULTI_VECTOR_SIMILARITIES = ("maxsim", "meanmaxsim")
"""The names of the similarity functions of texts with one vector for each token."""
ACTIVATIONS = (
    "Identity", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "LogSigmoid", "ReLU", "GELU", "SiLU", "Softplus",
)  # fmt: skip
"""The names of the functions that may follow the logits of a model that scores pairs, as torch has them."""
DTYPES = ("float32", "float16", "bfloat16", "int8")
"""The number formats of a model's weights and arithmetic."""
CUDA_DTYPES = ("float16", "bfloat16")
"""The dtypes that only CUDA computes."""
COMPUTED_DTYPES = ("tf32",)
"""The dtypes of arithmetic alone: a device computes float32 weights in them."""
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def dtype_name(name: object) -> str:
    """Normalize the name of a dtype; "fp32", "fp16" and "bf16" are accepted.

    Raises:
        ValueError: The name is unknown; the message lists the valid ones.
    """
    full = _SHORT.get(name, name) if isinstance(name, str) else name
    known = (*DTYPES, *COMPUTED_DTYPES)
    if isinstance(full, str) and full in known:
        return full
    raise ValueError(f"dtype: expected one of {', '.join(map(repr, known))}, got {name!r}")


SENTENCE: Literal["sentence_embedding"] = "sentence_embedding"
"""The graph output with one vector for each text, `[batch, width]`."""
TOKENS: Literal["token_embeddings"] = "token_embeddings"
"""The graph output with the last hidden state of each token, `[batch, sequence, width]`."""
LOGITS: Literal["logits"] = "logits"
"""The graph output with the scores of each pair before the activation, `[batch, labels]`."""
SPARSE: Literal["sparse_embedding"] = "sparse_embedding"
"""The graph output with a weight for each entry of the vocabulary, `[batch, vocabulary]`."""
MULTI_VECTOR: Literal["multi_vector_embedding"] = "multi_vector_embedding"
"""The graph output of late interaction: one vector for each token, `[batch, sequence, width]`."""
Task = Literal["embed", "score", "sparse", "multi-vector"]
"""The kinds of model: one vector a text, scores of pairs, vocabulary weights, one vector a token."""


class DeviceName(str):
    """The name of a device: a str that is equal to a `torch.device` of that name, and has its `type`."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """The kind of device, such as "cuda"."""
        return self.partition(":")[0]

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, str(other) if type(other).__module__ == "torch" else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Options(TypedDict, total=False):
    """The arguments of `encode` that do not change the type of its result."""

    device: str | Sequence[str] | None
    normalize_embeddings: bool
    truncate_dim: int | None
    pool: Pool | None
    chunk_size: int | None
    ranges: NDArray[Any] | None
    task: str | None
    on_truncation: OnTruncation


class LongOptions(TypedDict, total=False):
    """The arguments of `encode_long` that do not change the type of its result."""

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    normalize_embeddings: bool
    truncate_dim: int | None
    task: str | None


class Encode(Protocol):
    """The overloads of `encode`, `encode_query` and `encode_document`."""

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Literal["float32"] | None = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Vectors: ...

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        *,
        precision: Literal["int8", "uint8", "binary", "ubinary"],
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> NDArray[Any]: ...

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Precision | None = ...,
        convert_to_numpy: bool = ...,
        *,
        convert_to_tensor: Literal[True],
        **options: Unpack[Options],
    ) -> "Tensor": ...

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        output_value: OutputValue | None = ...,
        precision: Precision | None = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[Options],
    ) -> Any: ...


class AsyncEncode(Protocol):
    """The overloads of `aencode`."""

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Literal["float32"] | None = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Coroutine[Any, Any, Vectors]: ...

    @overload
    def __call__(self, inputs: Texts, *arguments: Any, **options: Any) -> Coroutine[Any, Any, Any]: ...


def typed(method: Callable[..., Any]) -> Encode:
    """Give a method the overloads of `Encode`, which type checkers read."""
    return cast(Encode, method)


def like(encode: Encode, *, bound: bool = False) -> Callable[[Callable[..., Any]], Encode]:
    """Give a function that forwards its arguments to `encode` the same overloads, and the same signature in `help()`.

    Args:
        encode: The method.
        bound: True if the function has no `self`.
    """

    def decorate(function: Callable[..., Any]) -> Encode:
        _show_arguments(function, encode, bound=bound)
        return cast(Encode, function)

    return decorate


def async_like(encode: Encode) -> Callable[[Callable[..., Any]], AsyncEncode]:
    """Give a coroutine function the overloads of `encode`, like `like`."""

    def decorate(function: Callable[..., Any]) -> AsyncEncode:
        _show_arguments(function, encode)
        return cast(AsyncEncode, function)

    return decorate


def _show_arguments(function: Callable[..., Any], encode: Encode, *, bound: bool = False) -> None:
    parameters = list(signature(encode).parameters.values())
    function.__signature__ = Signature(parameters[bound:])  # type: ignore[attr-defined]
