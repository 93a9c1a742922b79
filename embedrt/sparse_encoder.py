"""`SparseEncoder`: a sparse embedding model with the methods of sentence-transformers' class of that name."""

import dataclasses
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, overload

import numpy as np

from embedrt.bundle.check import Verify
from embedrt.bundle.manifest import Manifest, Sparse
from embedrt.inputs.check import check_texts
from embedrt.inputs.values import truth
from embedrt.model import Model
from embedrt.tasks import sparse
from embedrt.tasks.arguments import deprecated, refuse
from embedrt.tasks.call import call_for, task_prompt
from embedrt.types import OnTruncation, Pool, Texts, Vectors
from embedrt.vectors.similarity import find_similarity
from embedrt.vectors.sparse import SparseVectors
from embedrt.vectors.sparse_search import intersection, similarity, similarity_pairwise
from embedrt.vectors.torch_tensors import to_tensors, torch

if TYPE_CHECKING:
    from embedrt.run.processes import ProcessPool

_SIMILARITY = "dot"


class EncodeSparse(Protocol):
    """The overloads of the encode methods: `SparseVectors`, unless tensors, dense arrays or a list are asked for."""

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        *,
        device: str | Sequence[str] | None = ...,
        max_active_dims: int | None = ...,
        pool: Pool | None = ...,
        chunk_size: int | None = ...,
        task: str | None = ...,
        on_truncation: OnTruncation = ...,
    ) -> SparseVectors: ...

    @overload
    def __call__(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        convert_to_tensor: bool | None = ...,
        convert_to_sparse_tensor: bool = ...,
        save_to_cpu: bool = ...,
        device: str | Sequence[str] | None = ...,
        max_active_dims: int | None = ...,
        pool: Pool | None = ...,
        chunk_size: int | None = ...,
        *,
        task: str | None = ...,
        on_truncation: OnTruncation = ...,
    ) -> Any: ...


def _typed(method: Callable[..., Any]) -> EncodeSparse:
    return cast(EncodeSparse, method)


class SparseEncoder(Model):
    """A sparse embedding model: one weight for every token of the vocabulary. Safe to use from many threads at once.

    Vectors are `SparseVectors`, without torch; `convert_to_tensor=True` gives the tensors of sentence-transformers.

    Args:
        model_name_or_path: A bundle folder, a name in the local store, or a hub id, as `Embedder` takes it.
        device: One or more devices, as `Embedder` takes them.
        prompts: Prompts by name, each a text that goes before every input; they override the model's own.
        default_prompt_name: The prompt for calls that name none; None takes the model's default, if any.
        cache_folder: A folder that is searched before the store, and takes new models.
        trust_remote_code: Has no effect: nothing from a model repo is ever run, trusted or not.
        revision: Branch, tag or commit of a hub repo.
        local_files_only: Never touch the network.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; None takes the model's, or dot.
        max_active_dims: Entries to keep of every vector, the largest; None takes the model's maximum, if any.
        dtype: The model's number format, "float32" or "int8", or "auto"; None takes float32 if the bundle has it.
        threads: Threads to use; None takes the tuned number, else all cores.
        max_tokens: Token budget of a batch; None takes the tuned budget, else the device's.
        gpu_mem_limit: Upper bound of what CUDA's arena allocates on each GPU; None sets none.
        verify: When the bundle's files are checked by SHA-256: "once", "always" or "never".
        modules: Not available, like the arguments below; the error names the alternative.
        backend: "onnx", or "torch", which clients of sentence-transformers pass as its default.
        model_kwargs: See `modules`.
        processor_kwargs: See `modules`.
        tokenizer_kwargs: See `modules`.
        config_kwargs: See `modules`.
        model_card_data: See `modules`.

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message has the command to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
        ValueError: The bundle makes no sparse vectors, or another argument is out of range.

    Example:
        >>> model = SparseEncoder("naver/splade-v3")
        >>> query, documents = model.encode_query("a question"), model.encode_document(texts)
        >>> model.similarity(query, documents), model.decode(query, top_k=8)
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
        max_active_dims: int | None = None,
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
        sparse.active_dims(max_active_dims)
        super().__init__(
            model_name_or_path,
            device,
            task="sparse",
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
        own = self.manifest.similarity_fn_name if self.manifest.task == "sparse" else None
        self.similarity_fn_name = similarity_fn_name or own
        made = None if self.manifest.sparse is None else self.manifest.sparse.max_active_dims
        self.max_active_dims = made if max_active_dims is None else max_active_dims
        self.splade_pooling_chunk_size: int | None = None
        """Has no effect: the graph pools in blocks of the vocabulary, and never holds the logits of all tokens."""

    @property
    def max_active_dims(self) -> int | None:
        """Entries that calls keep of every vector if they name no number; None keeps all."""
        return self._max_active_dims

    @max_active_dims.setter
    def max_active_dims(self, value: int | None) -> None:
        self._max_active_dims = sparse.active_dims(value)

    @property
    def truncate_dim(self) -> None:
        """None: a sparse vector has all its coordinates."""

    @property
    def similarity_fn_name(self) -> str:
        """The similarity function: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | Enum | None) -> None:
        value = _SIMILARITY if value is None else value
        find_similarity(value)
        self._similarity_fn_name = str(value.value if isinstance(value, Enum) else value)

    def get_embedding_dimension(self) -> int:
        """Coordinates of a vector: the size of the vocabulary, for most models."""
        return self.manifest.width("sparse")

    def get_sentence_embedding_dimension(self) -> int:
        """The old name of `get_embedding_dimension`."""
        deprecated("get_sentence_embedding_dimension", "get_embedding_dimension")
        return self.get_embedding_dimension()

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The token of every coordinate; a coordinate without a token has its number, as "[30521]"."""
        tokens = self.tokenizer.convert_ids_to_tokens(range(self.get_embedding_dimension()))
        return tuple(f"[{i}]" if token is None else token for i, token in enumerate(tokens))

    @_typed
    def encode(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | Sequence[str] | None = None,
        max_active_dims: int | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
        on_truncation: OnTruncation = "ignore",
        sentences: Texts | None = None,
    ) -> Any:
        """Encode texts as sparse vectors, in the order given. A vector does not depend on the other texts of the call.

        Args:
            inputs: One str, or an iterable of str: list, tuple, generator, numpy array, pandas Series, ...
            prompt_name: The model's prompt to put before every text; None takes the model's default, if any.
            prompt: A prompt of your own; it overrides `prompt_name`.
            batch_size: Maximum number of texts in a batch; None leaves it to the token budget, by which batches are
                planned either way.
            show_progress_bar: None shows a bar where the logger "embedrt" is at level INFO or below.
            convert_to_tensor: None gives `SparseVectors`; True one torch tensor; False a list with one vector a text.
            convert_to_sparse_tensor: False gives dense vectors: float32 arrays, or dense tensors.
            save_to_cpu: Has no effect: vectors are always in main memory.
            device: Another device than the model's for this call, or a list of devices, as for `Embedder.encode`.
            max_active_dims: Entries to keep of every vector, the largest; None takes `SparseEncoder.max_active_dims`.
            pool: The result of `start_multi_process_pool`; its processes encode, and `device` has no effect.
            chunk_size: Texts that a process of the pool takes at a time.
            task: Kind of the texts, such as "query" or "document", for models that treat these differently.
            on_truncation: For texts that are longer than the model reads: "ignore", "warn" or "error", as for
                `Embedder.encode`.
            sentences: The old name of `inputs`.

        Returns:
            `SparseVectors` of shape `[vocabulary]` for a str, else `[len(inputs), vocabulary]`, unless the tensor
            arguments ask for something else.

        Raises:
            TypeError: An item of `inputs` is not a str; the message has its index.
            ValueError: Another argument is out of range, or a prompt name is unknown.
            NonFiniteError: The model returned NaN or infinity; the message names the texts.

        Example:
            >>> model.encode(["The cat sat.", "A dog ran."]).shape
            (2, 30522)
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
            task=task,
            on_truncation=on_truncation,
        )
        call = dataclasses.replace(call, dim=self.get_embedding_dimension())
        limit = self.max_active_dims if max_active_dims is None else sparse.active_dims(max_active_dims)
        tensor = None if convert_to_tensor is None else truth(convert_to_tensor, "convert_to_tensor")
        as_dense = not truth(convert_to_sparse_tensor, "convert_to_sparse_tensor")
        truth(save_to_cpu, "save_to_cpu")
        if tensor:
            torch()
        with self._place(call.route, len(texts), device, pool, chunk_size, show_progress_bar) as run:
            result = sparse.encode_sparse(run, texts, call, limit)
        call.report(result.truncated, len(texts))
        return _converted(result.values[0] if single else result.values, tensor, as_dense=as_dense)

    @_typed
    def encode_query(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | Sequence[str] | None = None,
        max_active_dims: int | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
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
            convert_to_tensor=convert_to_tensor,
            convert_to_sparse_tensor=convert_to_sparse_tensor,
            save_to_cpu=save_to_cpu,
            device=device,
            max_active_dims=max_active_dims,
            pool=pool,
            chunk_size=chunk_size,
            task="query",
            on_truncation=on_truncation,
            sentences=sentences,
        )

    @_typed
    def encode_document(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | Sequence[str] | None = None,
        max_active_dims: int | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
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
            convert_to_tensor=convert_to_tensor,
            convert_to_sparse_tensor=convert_to_sparse_tensor,
            save_to_cpu=save_to_cpu,
            device=device,
            max_active_dims=max_active_dims,
            pool=pool,
            chunk_size=chunk_size,
            task="document",
            on_truncation=on_truncation,
            sentences=sentences,
        )

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Similarity of every vector of the first to every vector of the second, float32 `[n, m]`.

        Args:
            embeddings1: `SparseVectors`, arrays, tensors, matrices of SciPy, or lists of these; one vector or several.
            embeddings2: Likewise.
        """
        return similarity(embeddings1, embeddings2, self.similarity_fn_name)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Similarity of each vector of the first to the one at the same place in the second, float32 `[n]`."""
        return similarity_pairwise(embeddings1, embeddings2, self.similarity_fn_name)

    @staticmethod
    def sparsity(embeddings: Any) -> dict[str, float]:
        """The mean number of active dimensions, "active_dims", and the mean share of the others, "sparsity_ratio"."""
        return sparse.sparsity(embeddings)

    @staticmethod
    def intersection(embeddings_1: Any, embeddings_2: Any) -> SparseVectors:
        """Products of the entries of one vector and of each of the others, for `decode`; only positive ones are kept.

        Args:
            embeddings_1: One vector.
            embeddings_2: One vector, or rows of vectors.

        Returns:
            As many vectors as `embeddings_2` has.
        """
        return intersection(embeddings_1, embeddings_2)

    def decode(self, embeddings: Any, top_k: int | None = None) -> Any:
        """The tokens of sparse vectors with their weights, the largest weight first.

        Args:
            embeddings: One vector, or rows of vectors.
            top_k: The number of tokens; None gives all with a weight.

        Returns:
            A list of pairs (token, weight) for every vector, or one list for one vector.
        """
        return sparse.decode(embeddings, self.get_embedding_dimension(), self.tokenizer.convert_ids_to_tokens, top_k)

    def _settings(self, name: str | None) -> Manifest:
        """The bundle's manifest with what was set on this model."""
        made = super()._settings(name)
        if made.task != "sparse":
            return made
        implied = made.similarity_fn_name is None and self.similarity_fn_name == _SIMILARITY
        return dataclasses.replace(
            made,
            similarity_fn_name=None if implied else self.similarity_fn_name,
            sparse=Sparse(self.max_active_dims),
        )


def _converted(vectors: SparseVectors, tensor: bool | None, *, as_dense: bool) -> Any:
    """Vectors in the form that a call asks for."""
    if tensor is False:
        if vectors.ndim == 1:
            return vectors.to_dense() if as_dense else vectors
        return list(vectors.to_dense()) if as_dense else list(vectors)
    if not tensor:
        return vectors.to_dense() if as_dense else vectors
    return to_tensors(np.ascontiguousarray(vectors.to_dense())) if as_dense else vectors.to_torch()
