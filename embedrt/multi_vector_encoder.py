"""`MultiVectorEncoder`: a late interaction model (ColBERT) with the methods of sentence-transformers' class."""

import dataclasses
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedrt.bundle.check import Verify
from embedrt.bundle.manifest import Manifest
from embedrt.inputs.check import check_texts
from embedrt.inputs.values import positive, truth
from embedrt.model import Model
from embedrt.tasks.arguments import refuse
from embedrt.tasks.call import task_prompt
from embedrt.tasks.multi_vector import multi_vector_call
from embedrt.types import TOKENS, OnTruncation, Texts
from embedrt.vectors.maxsim import Scores, find_multi_vector_similarity
from embedrt.vectors.token_pooling import HierarchicalTokenPooling
from embedrt.vectors.torch_tensors import to_tensors, torch

if TYPE_CHECKING:
    from embedrt.run.processes import ProcessPool


_SIMILARITY = "maxsim"


class MultiVectorEncoder(Model):
    """A late interaction model: one vector for every token, scored by MaxSim. Safe to use from many threads at once.

    Args:
        model_name_or_path: A bundle folder, a name in the local store, or a hub id, as for `Embedder`.
        device: As for `Embedder`.
        prompts: Prompts by name, each a text that goes before every input; they override the model's own.
        default_prompt_name: The prompt for calls of `encode` that name none; None takes the model's default, if any.
        cache_folder: As for `Embedder`.
        trust_remote_code: Has no effect: nothing from a model repo is ever run, trusted or not.
        revision: Branch, tag or commit of a hub repo.
        local_files_only: Never touch the network.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        similarity_fn_name: "maxsim" or "meanmaxsim"; None takes the model's, or maxsim.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        max_tokens: As for `Embedder`.
        gpu_mem_limit: As for `Embedder`.
        verify: As for `Embedder`.
        modules: Not available, like the arguments below; the error names the alternative.
        backend: "onnx", or "torch", which clients of sentence-transformers pass as its default.
        model_kwargs: See `modules`.
        processor_kwargs: See `modules`.
        config_kwargs: See `modules`.
        model_card_data: See `modules`.

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message has the command to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
        ValueError: The bundle is of another task, or another argument is out of range.

    Example:
        >>> model = MultiVectorEncoder("lightonai/GTE-ModernColBERT-v1")
        >>> queries, documents = model.encode_query(["a question"]), model.encode_document(["a text", "another"])
        >>> model.similarity(queries, documents).shape
        (1, 2)
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
        dtype: str | None = None,
        threads: int | None = None,
        max_tokens: int | None = None,
        gpu_mem_limit: int | str | None = None,
        verify: Verify = "once",
        modules: None = None,
        backend: Literal["onnx", "torch"] | None = None,
        model_kwargs: None = None,
        processor_kwargs: None = None,
        config_kwargs: None = None,
        model_card_data: None = None,
    ) -> None:
        refuse(
            modules=modules,
            backend=None if backend in {"onnx", "torch"} else backend,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
        )
        if similarity_fn_name is not None:
            find_multi_vector_similarity(similarity_fn_name)
        super().__init__(
            model_name_or_path,
            device,
            task="multi-vector",
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
        own = self.manifest.similarity_fn_name if self.manifest.task == "multi-vector" else None
        self.similarity_fn_name = similarity_fn_name or own

    @property
    def similarity_fn_name(self) -> str:
        """The similarity function: "maxsim" or "meanmaxsim"."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | Enum | None) -> None:
        value = _SIMILARITY if value is None else value
        self._similarity = find_multi_vector_similarity(value)
        self._similarity_fn_name = str(value.value if isinstance(value, Enum) else value)

    def _settings(self, name: str | None) -> Manifest:
        """The bundle's manifest with what was set on this model."""
        made = super()._settings(name)
        if made.task != "multi-vector":
            return made
        implied = made.similarity_fn_name is None and self.similarity_fn_name == _SIMILARITY
        return dataclasses.replace(made, similarity_fn_name=None if implied else self.similarity_fn_name)

    def get_embedding_dimension(self) -> int:
        """Coordinates of the vector of a token."""
        return self.manifest.width("multi-vector")

    def encode(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: Literal["token_embeddings"] | None = TOKENS,
        convert_to_numpy: bool = True,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        token_pooling: HierarchicalTokenPooling | None = None,
        task: str | None = None,
        *,
        on_truncation: OnTruncation = "ignore",
        convert_to_tensor: None = None,
    ) -> Any:
        """Encode texts as one vector for every token, in the order given.

        For search, `encode_query` and `encode_document` choose prompt, maximum length, expansion and skiplist.

        Args:
            inputs: One str, or an iterable of str.
            prompt_name: The model's prompt to put before every text; None takes the model's default, if any.
            prompt: A prompt of your own; it overrides `prompt_name`.
            batch_size: Maximum number of texts in a batch; None leaves it to the token budget, by which batches are
                planned either way.
            show_progress_bar: None shows a bar where the logger "embedrt" is at level INFO or below.
            output_value: "token_embeddings"; None for one dict a text with the token ids, the vectors of all tokens,
                and a mask of those that count. Clustering leaves the clusters alone.
            convert_to_numpy: False gives torch tensors.
            device: Another device than the model's for this call, or a list of devices; see `Embedder.encode`.
            normalize_embeddings: Scale the vectors to length 1, for models that do not.
            pool: The result of `start_multi_process_pool`; its processes encode, and `device` has no effect.
            chunk_size: Texts that a process of the pool takes at a time.
            token_pooling: A clustering of the vectors after the model's own, if its tasks have the call's.
            task: "query" or "document"; None has the maximum length of neither, and the skiplist of documents.
            on_truncation: For texts that are longer than the model reads: "ignore", "warn" or "error", as for
                `Embedder.encode`.
            convert_to_tensor: Not available, as the arrays differ in length.

        Returns:
            A list of float32 arrays `[vectors, dim]`; one array for a str.

        Raises:
            TypeError: An item of `inputs` is not a str; the message has its index.
            ValueError: Another argument is out of range, or a prompt name is unknown.
            NonFiniteError: The model returned NaN or infinity; the message names the texts.
        """
        refuse(convert_to_tensor=convert_to_tensor)
        texts, single = check_texts(inputs)
        call, request = multi_vector_call(
            self,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            output_value=output_value,
            normalize_embeddings=normalize_embeddings,
            token_pooling=token_pooling,
            task=task,
            on_truncation=on_truncation,
        )
        if tensors := not truth(convert_to_numpy, "convert_to_numpy"):
            torch()
        with self._place(call.route, len(texts), device, pool, chunk_size, show_progress_bar) as run:
            result = run(texts, request)
        call.report(result.truncated, len(texts))
        values = to_tensors(result.values) if tensors else result.values
        return values[0] if single else values

    def encode_query(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: Literal["token_embeddings"] | None = TOKENS,
        convert_to_numpy: bool = True,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        token_pooling: HierarchicalTokenPooling | None = None,
        *,
        on_truncation: OnTruncation = "ignore",
        convert_to_tensor: None = None,
    ) -> Any:
        """`encode` for search queries: takes the prompt named "query", the maximum length and expansion of queries."""
        return self.encode(
            inputs,
            prompt_name=task_prompt(self.prompts, "query", prompt_name, prompt),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            convert_to_numpy=convert_to_numpy,
            device=device,
            normalize_embeddings=normalize_embeddings,
            pool=pool,
            chunk_size=chunk_size,
            token_pooling=token_pooling,
            task="query",
            on_truncation=on_truncation,
            convert_to_tensor=convert_to_tensor,
        )

    def encode_document(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: Literal["token_embeddings"] | None = TOKENS,
        convert_to_numpy: bool = True,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        token_pooling: HierarchicalTokenPooling | None = None,
        *,
        on_truncation: OnTruncation = "ignore",
        convert_to_tensor: None = None,
    ) -> Any:
        """`encode` for documents: takes the prompt named "document", and the maximum length of documents."""
        return self.encode(
            inputs,
            prompt_name=task_prompt(self.prompts, "document", prompt_name, prompt),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            convert_to_numpy=convert_to_numpy,
            device=device,
            normalize_embeddings=normalize_embeddings,
            pool=pool,
            chunk_size=chunk_size,
            token_pooling=token_pooling,
            task="document",
            on_truncation=on_truncation,
            convert_to_tensor=convert_to_tensor,
        )

    def similarity(
        self,
        embeddings1: Any,
        embeddings2: Any,
        *,
        chunk_elements: int | None = None,
        length_normalize: bool | None = None,
    ) -> Scores:
        """Similarity of every query to every document, float32 `[n, m]`.

        Args:
            embeddings1: The queries: a list of `[vectors, dim]`, or a single array.
            embeddings2: The documents, likewise.
            chunk_elements: Numbers that are held at a time; see `embedrt.maxsim`.
            length_normalize: Divide by the number of query vectors; None does for "meanmaxsim".

        Raises:
            TypeError: The vectors are not numeric.
            ValueError: The shapes do not fit, or there is NaN or infinity.
        """
        options = {} if length_normalize is None else {"length_normalize": truth(length_normalize, "length_normalize")}
        return self._similarity.matrix(embeddings1, embeddings2, chunk_elements=chunk_elements, **options)

    def similarity_pairwise(
        self,
        embeddings1: Any,
        embeddings2: Any,
        *,
        chunk_elements: int | None = None,
        length_normalize: bool | None = None,
    ) -> Scores:
        """Similarity of each query to the document at the same place, float32 `[n]`; arguments as for `similarity`."""
        options = {} if length_normalize is None else {"length_normalize": truth(length_normalize, "length_normalize")}
        return self._similarity.pairwise(embeddings1, embeddings2, chunk_elements=chunk_elements, **options)

    def rank(
        self,
        query: str,
        documents: Texts,
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        device: str | Sequence[str] | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents by their similarity to a query, the most similar first.

        Args:
            query: The query.
            documents: The documents.
            top_k: The most documents to return; None returns all.
            return_documents: Whether to return the documents too.
            batch_size: As for `encode`.
            show_progress_bar: As for `encode`.
            device: As for `encode`.
            pool: As for `encode`.
            chunk_size: As for `encode`.

        Returns:
            A dict for each document with "corpus_id", its index, "score", and "text" if asked for.

        Example:
            >>> model.rank("a question", ["a text", "another"], top_k=1)
            [{'corpus_id': 0, 'score': 9.1}]
        """
        if not isinstance(query, str):
            raise TypeError(f"query: expected str, got {type(query).__name__}")
        texts = check_texts(documents, "documents")[0]
        count = len(texts) if top_k is None else positive(top_k, "top_k")
        with_texts = truth(return_documents, "return_documents")
        vectors = self.encode_document(
            texts,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )
        scores = self.similarity([self.encode_query(query)], vectors)[0]
        order = np.argsort(-scores, kind="stable")[:count].tolist()
        return [
            {"corpus_id": i, "score": float(scores[i]), **({"text": texts[i]} if with_texts else {})} for i in order
        ]
