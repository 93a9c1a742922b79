"""The types of `encode`: what it takes, and what comes back for which arguments."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from inspect import Signature, signature
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from embedrt.vectors.quantization import Precision

if TYPE_CHECKING:
    from torch import Tensor  # noqa: TID251 - an annotation; whoever asks for tensors has torch

    from embedrt.run.processes import ProcessPool

Texts: TypeAlias = str | Iterable[str]
Vectors: TypeAlias = NDArray[np.float32]
Features: TypeAlias = dict[str, NDArray[Any]]

OnTruncation = Literal["ignore", "warn", "error"]
OutputValue = Literal["sentence_embedding", "token_embeddings"]
SENTENCE: Literal["sentence_embedding"] = "sentence_embedding"
TOKENS: Literal["token_embeddings"] = "token_embeddings"


class Options(TypedDict, total=False):
    """The arguments of `encode` that do not change the type of its result."""

    device: str | Sequence[str] | None
    normalize_embeddings: bool
    truncate_dim: int | None
    pool: "ProcessPool | None"
    chunk_size: int | None
    ranges: NDArray[Any] | None
    task: str | None
    on_truncation: OnTruncation


class Encode(Protocol):
    """`encode`, `encode_query` and `encode_document`: what they return."""

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
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
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        *,
        precision: Literal["int8", "binary"],
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> NDArray[np.int8]: ...

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        *,
        precision: Literal["uint8", "ubinary"],
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> NDArray[np.uint8]: ...

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Precision | None = ...,
        convert_to_numpy: bool = ...,
        *,
        convert_to_tensor: Literal[True],
        **options: Unpack[Options],
    ) -> "Tensor": ...

    @overload  # a str is an iterable of str too, so the order matters
    def __call__(
        self,
        inputs: str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Precision | None = ...,
        *,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> "Tensor": ...

    @overload
    def __call__(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Precision | None = ...,
        *,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> "list[Tensor]": ...

    @overload  # a str is an iterable of str too, so the order matters
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        *,
        output_value: Literal["token_embeddings"],
        precision: Literal["float32"] | None = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Vectors: ...

    @overload
    def __call__(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        *,
        output_value: Literal["token_embeddings"],
        precision: Literal["float32"] | None = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> list[Vectors]: ...

    @overload  # a str is an iterable of str too, so the order matters
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        *,
        output_value: None,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Features: ...

    @overload
    def __call__(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        *,
        output_value: None,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> list[Features]: ...

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: OutputValue | None = ...,
        precision: Precision | None = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[Options],
    ) -> Any: ...


class AsyncEncode(Protocol):
    """`aencode`: what it returns when it is awaited."""

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
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
    """Gives a method the overloads of `Encode`, which type checkers read."""
    return cast(Encode, method)


def like(encode: Encode, *, bound: bool = False) -> Callable[[Callable[..., Any]], Encode]:
    """Gives a function that hands its arguments on to `encode` the same overloads, and in help() the same arguments.

    Args:
        encode: The method.
        bound: Whether the function has no `self`.
    """

    def decorate(function: Callable[..., Any]) -> Encode:
        _show_arguments(function, encode, bound=bound)
        return cast(Encode, function)

    return decorate


def async_like(encode: Encode) -> Callable[[Callable[..., Any]], AsyncEncode]:
    """The same for a coroutine function."""

    def decorate(function: Callable[..., Any]) -> AsyncEncode:
        _show_arguments(function, encode)
        return cast(AsyncEncode, function)

    return decorate


def _show_arguments(function: Callable[..., Any], encode: Encode, *, bound: bool = False) -> None:
    parameters = list(signature(encode).parameters.values())
    function.__signature__ = Signature(parameters[bound:])  # type: ignore[attr-defined]
