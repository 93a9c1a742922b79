"""`Embedder`: a sentence embedding model with the methods of `SentenceTransformer`."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedrt.bundle.check import Verify
from embedrt.bundle.manifest import Manifest
from embedrt.inputs.check import check_texts
from embedrt.inputs.values import truth
from embedrt.inputs.windows import Span
from embedrt.model import Model
from embedrt.tasks import long_texts, stream
from embedrt.tasks.arguments import coordinates, deprecated, refuse
from embedrt.tasks.call import call_for, prompt_for, route_for, task_prompt
from embedrt.tasks.embed import embed
from embedrt.tasks.long_texts import Combine
from embedrt.types import (
    SENTENCE,
    TOKENS,
    LongOptions,
    OnTruncation,
    OutputValue,
    Precision,
    Texts,
    Vectors,
    async_like,
    typed,
)
from embedrt.vectors.similarity import find_similarity
from embedrt.vectors.torch_tensors import to_tensors, torch

if TYPE_CHECKING:
    from embedrt.run.processes import ProcessPool

logger = logging.getLogger("embedrt")

# More than any machine has cores.
_MOST_THREADS = 4096


class Embedder(Model):
    """A sentence embedding model, with the methods of `SentenceTransformer`. Safe to use from many threads at once.

    Args:
        model_name_or_path: A bundle folder, a name in the local store, or a hub id. A bundle on the hub is downloaded
            into the store; any other model is exported on the spot, if the extra `export` is installed.
        device: "cpu", "cuda", "cuda:1", "coreml", "mps", "openvino" or "openvino:GPU". None and "auto" take the fastest
            by `embedrt tune`, else CUDA if it is installed, else the CPU. A named device is used, or it is an error. A
            list, such as ["cuda:0", "cuda:1"], loads the model on each of these devices; they share the batches.
        prompts: Prompts by name, each a text that goes before every input; they override the model's own.
        default_prompt_name: The prompt for calls that name none; None takes the model's default, if any.
        cache_folder: A folder that is searched before the store, and takes new models; None takes the store alone:
            `EMBEDRT_HOME`, `SENTENCE_TRANSFORMERS_HOME` or the user's cache folder.
        trust_remote_code: Has no effect: nothing from a model repo is ever run, trusted or not.
        revision: Branch, tag or commit of a hub repo.
        local_files_only: Never touch the network.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; None takes the model's, or cosine.
        truncate_dim: Coordinates to keep; None takes the model's default, if any.
        dtype: The model's number format: "float32", "float16", "bfloat16" or "int8", where the bundle has it or the
            device computes it; or "tf32", which computes the float32 graph on CUDA with an error of about 1e-4. None
            takes float32 if the bundle has it, else its only one. "auto" takes the fastest that `embedrt tune` measured
            here and found good enough.
        threads: Threads to use; None takes the tuned number, else all cores that affinity and cgroup quota allow.
        max_tokens: Token budget of a batch: its texts times the tokens of the longest. It bounds the memory. None takes
            the tuned budget, else the device's, which on a GPU follows the size of the model. A single text may be
            longer.
        gpu_mem_limit: Upper bound of what CUDA's arena allocates on each GPU, as bytes or as "20GB" (10**9 bytes) or
            "20GiB" (2**30 bytes); None sets none. The CUDA context, about 0.5 GB, and the workspaces of the CUDA
            libraries come on top.
        verify: When the bundle's files are checked by SHA-256: "once" on this machine, until a file changes; "always";
            or "never".
        modules: Not available, like the arguments below; the error names the alternative.
        backend: "onnx", or "torch", which clients of sentence-transformers pass as its default; the engine is ONNX
            Runtime either way.
        model_kwargs: See `modules`.
        processor_kwargs: See `modules`.
        tokenizer_kwargs: See `modules`.
        config_kwargs: See `modules`.
        model_card_data: See `modules`.

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message has the command to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
        ValueError: Another argument is out of range, or has no meaning here.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        device: str | Sequence[str] | None = None,
        *,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        similarity_fn_name: str | Enum | None = None,
        truncate_dim: int | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        max_tokens: int | None = None,
        gpu_mem_limit: int | str | None = None,
        verify: Verify = "once",
        modules: None = None,
        backend: Literal["onnx", "torch"] | None = None,
        model_kwargs: None = None,
        processor_kwargs: None = None,
        tokenizer_kwargs: None = None,
        config_kwargs: None = None,
        model_card_data: None = None,
    ) -> None:
        refuse(
            modules=modules,
            backend=None if backend in {"onnx", "torch"} else backend,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
        )
        if similarity_fn_name is not None:
            find_similarity(similarity_fn_name)
        super().__init__(
            model_name_or_path,
            device,
            task="embed",
            prompts=prompts,
            implied_prompts={"query": "", "document": ""},
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            dtype=dtype,
            threads=threads,
            max_tokens=max_tokens,
            gpu_mem_limit=gpu_mem_limit,
            verify=verify,
        )
        self.similarity_fn_name = similarity_fn_name or self.manifest.similarity_fn_name or "cosine"
        self.truncate_dim = self.manifest.truncate_dim if truncate_dim is None else truncate_dim

    @property
    def similarity_fn_name(self) -> str:
        """The similarity function: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | Enum | None) -> None:
        value = "cosine" if value is None else value
        self._similarity = find_similarity(value)
        self._similarity_fn_name = str(value.value if isinstance(value, Enum) else value)

    @property
    def truncate_dim(self) -> int | None:
        """Coordinates that calls keep if they name no number; None keeps all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = None if value is None else coordinates(value, self.manifest.dim)

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """A `with` block in which `truncate_dim` is another."""
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    def get_embedding_dimension(self) -> int:
        """Coordinates of a vector that `encode` returns."""
        return self.truncate_dim or self.manifest.dim

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Check that the bundle pools the tokens of prompts as asked for: the export has fixed it.

        Args:
            include_prompt: Whether a vector counts the tokens of its prompt.

        Raises:
            ValueError: The bundle does the other thing.
        """
        wanted = truth(include_prompt, "include_prompt")
        found = not any(route.tokenization.pooling_mask for route in self.manifest.routes.values())
        if wanted != found:
            raise ValueError(
                f"include_prompt: expected {found}, as the bundle was exported, got {wanted}; change include_prompt in "
                "the model's 1_Pooling/config.json, and export it again"
            )

    def get_sentence_embedding_dimension(self) -> int:
        """The old name of `get_embedding_dimension`."""
        deprecated("get_sentence_embedding_dimension", "get_embedding_dimension")
        return self.get_embedding_dimension()

    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> AbstractContextManager[None]:
        """The old name of `truncate_embeddings`."""
        deprecated("truncate_sentence_embeddings", "truncate_embeddings")
        return self.truncate_embeddings(truncate_dim)

    def get_max_seq_length(self) -> int | None:
        """The old name of `max_seq_length`."""
        deprecated("get_max_seq_length()", "max_seq_length")
        return self.max_seq_length

    def preprocess(
        self, inputs: Texts, prompt: str | None = None, task: str | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for texts as one batch, truncated at `max_seq_length` and padded to the longest text.

        Args:
            inputs: One str, or an iterable of str.
            prompt: A prompt before every text; None adds none.
            task: As for `encode`.

        Returns:
            int64 arrays `[len(inputs), tokens]` by name: "input_ids", "attention_mask" and what else the graph takes.
        """
        route = route_for(self.manifest, task)
        runner = self.runners[route]
        texts = check_texts(inputs)[0]
        if prompt is not None:
            prompt = prompt_for({}, None, None, prompt)
            texts = [prompt + text for text in texts]
        return runner.inputs(runner.tokenizer(self.lengths[route])(texts))

    def tokenize(self, texts: Texts, task: str | None = None) -> dict[str, NDArray[np.int64]]:
        """The older name of `preprocess`, without a prompt."""
        return self.preprocess(texts, task=task)

    @overload
    def token_count(  # type: ignore[overload-overlap]  # a str is an iterable of str too
        self, texts: str, task: str | None = ..., *, truncation: bool = ...
    ) -> int: ...

    @overload
    def token_count(self, texts: Iterable[str], task: str | None = ..., *, truncation: bool = ...) -> list[int]: ...

    def token_count(self, texts: Texts, task: str | None = None, *, truncation: bool = True) -> int | list[int]:
        """Tokens of each text as the model reads it, special tokens included.

        Args:
            texts: One str, or an iterable of str.
            task: As for `encode`.
            truncation: Whether to count no more than `max_seq_length`.

        Returns:
            An int for a str, else a list.
        """
        items, single = check_texts(texts)
        route = route_for(self.manifest, task)
        limit = self.lengths[route] if truth(truncation, "truncation") else None
        tokenize = self.runners[route].tokenizer(limit)
        counts: list[int] = tokenize(items).lengths.tolist()
        return counts[0] if single else counts

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Vectors:
        """Similarity of every vector of the first to every vector of the second, float32 `[n, m]`."""
        return self._similarity.matrix(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Vectors:
        """Similarity of each vector of the first to the one at the same place in the second, float32 `[n]`."""
        return self._similarity.pairwise(embeddings1, embeddings2)

    @typed
    def encode(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = SENTENCE,
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
        ranges: NDArray[Any] | None = None,
        task: str | None = None,
        on_truncation: OnTruncation = "ignore",
        sentences: Texts | None = None,
    ) -> Any:
        """Encode texts as vectors, in the order given. A vector does not depend on the other texts of the call.

        Args:
            inputs: One str, or an iterable of str: list, tuple, generator, numpy array, pandas Series, ...
            prompt_name: The model's prompt to put before every text; None takes the model's default, if any.
            prompt: A prompt of your own; it overrides `prompt_name`.
            batch_size: Maximum number of texts in a batch; None leaves it to the token budget, by which batches are
                planned either way.
            show_progress_bar: None shows a bar where the logger "embedrt" is at level INFO or below.
            output_value: "sentence_embedding"; "token_embeddings" for one array a text; None for one dict a text with
                all inputs and outputs of the graph, without padding.
            precision: Format of the stored vectors: "float32"; "int8" or "uint8", scaled by the range of each
                coordinate; "binary" or "ubinary", with 8 coordinates in a byte.
            convert_to_numpy: False gives a list of torch tensors.
            convert_to_tensor: True gives one torch tensor.
            device: Another device than the model's for this call, or a list of devices. GPUs of a list, such as
                ["cuda:0", "cuda:1"], keep the model loaded and share the batches in this process; other devices of a
                list get one process each for this call.
            normalize_embeddings: Scale the vectors to length 1, after truncation.
            truncate_dim: Keep only the first coordinates; None takes `Embedder.truncate_dim`.
            pool: The result of `start_multi_process_pool`; its processes encode, and `device` has no effect.
            chunk_size: Texts that a process of the pool takes at a time.
            ranges: `[2, dim]`, the minimum and the maximum of each coordinate, for "int8" and "uint8". None takes the
                bundle's ranges (`embedrt ranges`), else those of the call's own vectors.
            task: Kind of the texts, such as "query" or "document", for models that treat these differently.
            on_truncation: For texts that are longer than the model reads: "ignore" truncates them, "warn" also gives a
                `TruncationWarning`, and "error" raises a `TruncationError` before the model runs on them. The log has
                the number of truncated texts in any case.
            sentences: The old name of `inputs`.

        Returns:
            A numpy array of shape `[dim]` for a str, else `[len(inputs), dim]`, in float32 unless `precision`,
            `output_value` or the tensor arguments ask for something else.

        Raises:
            TypeError: An item of `inputs` is not a str; the message has its index.
            ValueError: Another argument is out of range, or a prompt name is unknown.
            NonFiniteError: The model returned NaN or infinity; the message names the texts.

        Example:
            >>> model.encode(["The cat sat.", "A dog ran."]).shape
            (2, 384)
        """
        if sentences is not None:
            if inputs is not None:
                raise TypeError("sentences: the old name of inputs, which is given too")
            deprecated("sentences=", "inputs=")
            inputs = sentences
        texts, single = check_texts(inputs)
        call = call_for(
            self,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            output_value=output_value,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            ranges=ranges,
            task=task,
            on_truncation=on_truncation,
        )
        convert_to_tensor = truth(convert_to_tensor, "convert_to_tensor")
        tensors = not truth(convert_to_numpy, "convert_to_numpy") or convert_to_tensor
        if tensors:
            torch()
        with self._place(call.route, len(texts), device, pool, chunk_size, show_progress_bar) as run:
            result = embed(run, texts, call)
        call.report(result.truncated, len(texts))
        values: Any = result.values
        if tensors:
            values = to_tensors(values)
            if not convert_to_tensor and output_value == SENTENCE:
                values = list(values)
        return values[0] if single else values

    @typed
    def encode_query(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = SENTENCE,
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
        ranges: NDArray[Any] | None = None,
        on_truncation: OnTruncation = "ignore",
        sentences: Texts | None = None,
    ) -> Any:
        """`encode` for search queries: takes the prompt named "query", and the route for queries."""
        encode: Callable[..., Any] = self.encode
        return encode(
            inputs=inputs,
            prompt_name=task_prompt(self.prompts, "query", prompt_name, prompt),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
            ranges=ranges,
            task="query",
            on_truncation=on_truncation,
            sentences=sentences,
        )

    @typed
    def encode_document(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = SENTENCE,
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
        ranges: NDArray[Any] | None = None,
        on_truncation: OnTruncation = "ignore",
        sentences: Texts | None = None,
    ) -> Any:
        """`encode` for the texts to search in.

        Takes the prompt named "document", "passage" or "corpus", and the route for documents.
        """
        encode: Callable[..., Any] = self.encode
        return encode(
            inputs=inputs,
            prompt_name=task_prompt(self.prompts, "document", prompt_name, prompt),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
            ranges=ranges,
            task="document",
            on_truncation=on_truncation,
            sentences=sentences,
        )

    @async_like(encode)
    async def aencode(self, *arguments: Any, **options: Any) -> Any:
        """`encode` for an event loop, which it never blocks: another thread does the work."""
        import asyncio  # callers have it already; for all others it would double the time of our own import

        return await asyncio.to_thread(self.encode, *arguments, **options)

    def encode_multi_process(
        self,
        sentences: Iterable[str],
        pool: "ProcessPool",
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        chunk_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: Precision = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> NDArray[Any]:
        """The old way to write `encode(sentences, pool=pool)`."""
        deprecated("encode_multi_process(...)", "encode(..., pool=pool)")
        vectors: NDArray[Any] = self.encode(
            sentences,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            SENTENCE,
            precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
        )
        return vectors

    def encode_iter(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *,
        precision: Precision = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        ranges: NDArray[Any] | None = None,
        task: str | None = None,
        on_truncation: OnTruncation = "ignore",
    ) -> Iterator[NDArray[Any]]:
        """Turn a stream of texts into vectors one by one, in bounded memory however many there are.

        Texts are read as they are needed, up to 4096 ahead, or as many as a batch may have tokens. Arguments and errors
        are those of `encode`; a text that is no str is found when it is read.

        Returns:
            A vector `[dim]` for every text, in the order given.
        """
        call = call_for(
            self,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            ranges=ranges,
            task=task,
            on_truncation=on_truncation,
        )
        return stream.encode_iter(self.loaded.runners, inputs, call)

    @overload
    def encode_long(
        self,
        texts: Texts,
        max_tokens: int | None = ...,
        overlap: int = ...,
        combine: Literal["mean", "max"] = ...,
        **options: Unpack[LongOptions],
    ) -> Vectors: ...

    @overload  # a str is an iterable of str too, so the order matters
    def encode_long(  # type: ignore[overload-overlap]
        self,
        texts: str,
        max_tokens: int | None = ...,
        overlap: int = ...,
        *,
        combine: Literal["none"],
        **options: Unpack[LongOptions],
    ) -> Vectors: ...

    @overload
    def encode_long(
        self,
        texts: Iterable[str],
        max_tokens: int | None = ...,
        overlap: int = ...,
        *,
        combine: Literal["none"],
        **options: Unpack[LongOptions],
    ) -> list[Vectors]: ...

    def encode_long(
        self,
        texts: Texts,
        max_tokens: int | None = None,
        overlap: int = 0,
        combine: Combine = "mean",
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        task: str | None = None,
    ) -> Vectors | list[Vectors]:
        """Encode texts of any length, without truncation. A text that fits has the vector that `encode` gives it.

        Longer texts are cut at token boundaries into windows, each of which gets the prompt and the special tokens.

        Args:
            texts: One str, or an iterable of str.
            max_tokens: Tokens of a window, those included; None takes `max_seq_length`.
            overlap: Tokens of the text that a window shares with the one before.
            combine: "mean" of the windows' vectors, weighted by their tokens, and normalized where the model
                normalizes; "max" in every coordinate; "none" for a vector of each window, whose positions `windows`
                gives.
            prompt_name: As for `encode`, like the arguments below.
            prompt: See `prompt_name`.
            batch_size: Maximum number of windows in a batch; None leaves it to the token budget.
            normalize_embeddings: Scale the vectors to length 1.
            truncate_dim: Keep only the first coordinates.
            task: What the texts are.

        Returns:
            float32 `[dim]` for a str, else `[len(texts), dim]`; with "none" `[windows, dim]`, or a list of such.

        Raises:
            ValueError: A window has no room for text, or the overlap leaves none to go on.
        """
        call = call_for(
            self,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            task=task,
        )
        runner = self.runners[call.route]
        return long_texts.encode_long(runner, texts, call, max_tokens=max_tokens, overlap=overlap, combine=combine)

    @overload  # a str is an iterable of str too, so the order matters
    def windows(  # type: ignore[overload-overlap]
        self,
        texts: str,
        max_tokens: int | None = ...,
        overlap: int = ...,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        task: str | None = ...,
    ) -> list[Span]: ...

    @overload
    def windows(
        self,
        texts: Iterable[str],
        max_tokens: int | None = ...,
        overlap: int = ...,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        task: str | None = ...,
    ) -> list[list[Span]]: ...

    def windows(
        self,
        texts: Texts,
        max_tokens: int | None = None,
        overlap: int = 0,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        task: str | None = None,
    ) -> list[Span] | list[list[Span]]:
        """The windows that `encode_long` cuts texts into, with the same arguments.

        Returns:
            For a str a list of pairs, the characters of each window, from and to; else a list of such lists.
        """
        call = call_for(self, prompt_name=prompt_name, prompt=prompt, task=task)
        return long_texts.windows(self.runners[call.route], texts, call, max_tokens=max_tokens, overlap=overlap)

    def encode_chunks(
        self,
        text: str,
        spans: Iterable[Span],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        task: str | None = None,
    ) -> Vectors:
        """Late chunking: one vector for each passage of a text, with the whole text as its context.

        The text is read once; a passage's vector is the mean of its token embeddings, as in Guenther et al. 2024
        (arXiv:2409.04701), without the prompt's and the special tokens.

        Args:
            text: The text; it must fit into `max_seq_length`.
            spans: The passages, in characters from and to. A token belongs to the passage in which it begins.
            prompt_name: As for `encode`, like the arguments below.
            prompt: See `prompt_name`.
            normalize_embeddings: Scale the vectors to length 1; models that do so by themselves do it here too.
            truncate_dim: Keep only the first coordinates.
            task: What the text is.

        Returns:
            float32 `[len(spans), dim]`.

        Raises:
            ValueError: The model's vectors are no mean of tokens, or a passage has no token.
            TruncationError: The text is longer than the model reads.
        """
        call = call_for(
            self,
            prompt_name=prompt_name,
            prompt=prompt,
            output_value=TOKENS,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            task=task,
            on_truncation="error",
        )
        return long_texts.encode_chunks(self.runners[call.route], text, spans, call)

    def _settings(self, name: str | None) -> Manifest:
        """The bundle's manifest with what was set on this model."""
        made = super()._settings(name)
        implied = made.similarity_fn_name is None and self.similarity_fn_name == "cosine"
        return dataclasses.replace(
            made,
            truncate_dim=self.truncate_dim,
            similarity_fn_name=None if implied else self.similarity_fn_name,
        )
