"""`CrossEncoder`: a model that scores pairs of texts, with the methods of sentence-transformers' class."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedrt.bundle.check import Verify
from embedrt.bundle.manifest import Manifest, Scoring
from embedrt.inputs.templates import reading_of
from embedrt.inputs.values import integer, shown, truth
from embedrt.model import Model
from embedrt.tasks.activations import Activation, NamedActivation, find_activation
from embedrt.tasks.arguments import deprecated, length_for, refuse
from embedrt.tasks.rerank import check_rank, ranked, score_call, scores_of
from embedrt.types import OnTruncation
from embedrt.vectors.torch_tensors import to_tensors, torch

if TYPE_CHECKING:
    from embedrt.run.processes import ProcessPool


class CrossEncoder(Model):
    """A model that scores pairs of texts, such as a query and a document. Safe to use from many threads at once.

    Args:
        model_name_or_path: A bundle folder, a name in the local store, or a hub id, as for `Embedder`.
        num_labels: The number of labels, which the export has fixed: another one is an error.
        max_length: The first value of `max_seq_length`; None takes the model's.
        activation_fn: The function that follows the logits: a name such as "Sigmoid" or "Identity", or a function of a
            float32 array `[pairs, labels]`; a function or module of torch gets a tensor. None takes the model's.
        device: As for `Embedder`.
        prompts: Prompts by name, each a text that goes before the first text of every pair; they override the model's
            own.
        default_prompt_name: The prompt for calls that name none; None takes the model's default, if any.
        cache_folder: As for `Embedder`.
        trust_remote_code: Has no effect: nothing from a model repo is ever run, trusted or not.
        revision: Branch, tag or commit of a hub repo.
        local_files_only: Never touch the network.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        dtype: As for `Embedder`.
        threads: As for `Embedder`.
        max_tokens: As for `Embedder`.
        gpu_mem_limit: As for `Embedder`.
        verify: As for `Embedder`.
        backend: "onnx", or "torch", which clients of sentence-transformers pass as its default.
        modules: Not available, like the arguments below up to `classifier_dropout`; the error names the alternative.
        model_kwargs: See `modules`.
        processor_kwargs: See `modules`.
        config_kwargs: See `modules`.
        model_card_data: See `modules`.
        keep_in_fp32_modules: See `modules`.
        automodel_args: See `modules`.
        tokenizer_args: See `modules`.
        tokenizer_kwargs: See `modules`.
        config_args: See `modules`.
        classifier_dropout: Has no effect: it is of the training alone.
        model_name: The old name of `model_name_or_path`.
        cache_dir: The old name of `cache_folder`.
        default_activation_function: The old name of `activation_fn`.

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message has the command to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
        ValueError: The bundle is of another task, or another argument is out of range.

    Example:
        >>> model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
        >>> model.predict([("How many people live in Berlin?", "Berlin had 3,520,031 inhabitants.")]).shape
        (1,)
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: str | Activation | None = None,
        device: str | Sequence[str] | None = None,
        *,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        max_tokens: int | None = None,
        gpu_mem_limit: int | str | None = None,
        verify: Verify = "once",
        backend: Literal["onnx", "torch"] | None = None,
        modules: None = None,
        model_kwargs: None = None,
        processor_kwargs: None = None,
        config_kwargs: None = None,
        model_card_data: None = None,
        keep_in_fp32_modules: None = None,
        automodel_args: None = None,
        tokenizer_args: None = None,
        tokenizer_kwargs: None = None,
        config_args: None = None,
        classifier_dropout: float | None = None,
        model_name: str | Path | None = None,
        cache_dir: str | Path | None = None,
        default_activation_function: str | Activation | None = None,
    ) -> None:
        refuse(
            modules=modules,
            backend=None if backend in {"onnx", "torch"} else backend,
            model_kwargs=model_kwargs if model_kwargs is not None else automodel_args,
            processor_kwargs=processor_kwargs if processor_kwargs is not None else tokenizer_args,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs if config_kwargs is not None else config_args,
            model_card_data=model_card_data,
            keep_in_fp32_modules=keep_in_fp32_modules or None,
        )
        if classifier_dropout is not None:
            deprecated("classifier_dropout=", "a setting of the training, without an effect here")
        model_name_or_path = _renamed("model_name", model_name, "model_name_or_path", model_name_or_path)
        if model_name_or_path is None:
            raise TypeError("model_name_or_path: expected a bundle folder, a name in the store or a hub id, got None")
        given = _renamed("default_activation_function", default_activation_function, "activation_fn", activation_fn)
        chosen = None if given is None else find_activation(given)
        super().__init__(
            model_name_or_path,
            device,
            task="score",
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=_renamed("cache_dir", cache_dir, "cache_folder", cache_folder),
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            dtype=dtype,
            threads=threads,
            max_tokens=max_tokens,
            gpu_mem_limit=gpu_mem_limit,
            verify=verify,
        )
        if num_labels is not None and integer(num_labels) != self.num_labels:
            found = self.num_labels
            self.close()
            raise ValueError(
                f"num_labels: expected {found}, the labels of this model, or None, got {shown(num_labels)}; the number "
                "is fixed by the export"
            )
        own = self.manifest.scoring
        self._activation = chosen or NamedActivation("Identity" if own is None else own.activation)
        if max_length is not None:
            self.max_seq_length = max_length

    @property
    def num_labels(self) -> int:
        """The number of labels: scores of a pair."""
        return self.manifest.width("scores")

    @property
    def activation_fn(self) -> Activation:
        """The function that follows the logits."""
        return self._activation

    @activation_fn.setter
    def activation_fn(self, value: str | Activation) -> None:
        self._activation = find_activation(value)

    @property
    def default_activation_function(self) -> Activation:
        """The old name of `activation_fn`."""
        deprecated("default_activation_function", "activation_fn")
        return self.activation_fn

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of a pair, special tokens included; the rest is truncated. None is all."""
        return max((length for length in self.lengths.values() if length is not None), default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        lengths = {}
        for name, runner in self.runners.items():
            lengths[name] = length = length_for(runner, value)
            least = 1 + reading_of(runner.route).of(runner.tokenize).special_tokens
            if length is not None and length < least:
                raise ValueError(f"max_seq_length: expected {least} or more, room for a pair, got {length}")
        self.lengths = lengths

    @property
    def max_length(self) -> int | None:
        """The old name of `max_seq_length`."""
        deprecated("max_length", "max_seq_length")
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int | None) -> None:
        deprecated("max_length", "max_seq_length")
        self.max_seq_length = value

    def predict(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: str | Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
        on_truncation: OnTruncation = "ignore",
        sentences: Any = None,
        activation_fct: str | Activation | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Score pairs of texts, in the order given. A score does not depend on the other pairs of the call.

        A pair that is longer than the model reads loses tokens of its longer text until both are equally long.

        Args:
            inputs: Pairs (text, text) in a list or another ordered collection; or one pair, as a tuple, list or array
                of two texts. A lone str is scored as it is.
            prompt_name: The model's prompt to put before the first text of every pair; None takes the model's default,
                if any.
            prompt: A prompt of your own; it overrides `prompt_name`.
            batch_size: Maximum number of pairs in a batch; None leaves it to the token budget, by which batches are
                planned either way.
            show_progress_bar: None shows a bar where the logger "embedrt" is at level INFO or below.
            activation_fn: The function that follows the logits, as for the constructor; None takes the model's.
            apply_softmax: Scale the scores of several labels so that they add up to 1, after the activation.
            convert_to_numpy: False gives a list of torch tensors.
            convert_to_tensor: True gives one torch tensor.
            device: Another device than the model's for this call, or a list of devices, as for `Embedder.encode`.
            pool: The result of `start_multi_process_pool`; its processes score, and `device` has no effect.
            chunk_size: Pairs that a process of the pool takes at a time.
            on_truncation: For pairs that are longer than the model reads: "ignore", "warn" or "error", as for
                `Embedder.encode`.
            sentences: The old name of `inputs`.
            activation_fct: The old name of `activation_fn`.
            num_workers: Has no effect; callers of older versions pass it.

        Returns:
            float32 `[pairs]` for models with one label, else `[pairs, labels]`; one score or row for one pair.

        Raises:
            TypeError: A text is not a str; the message has its index.
            ValueError: An item is not a pair, or another argument is out of range.
            NonFiniteError: The model returned NaN or infinity; the message names the pairs.

        Example:
            >>> model.predict([("query", "a document"), ("query", "another")]).shape
            (2,)
        """
        if num_workers is not None:
            deprecated("num_workers=", "threads= of the constructor")
        activation_fn = _renamed("activation_fct", activation_fct, "activation_fn", activation_fn)
        call = score_call(
            self,
            _renamed("sentences", sentences, "inputs", inputs),
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            activation=self._activation if activation_fn is None else find_activation(activation_fn),
            apply_softmax=apply_softmax,
            on_truncation=on_truncation,
        )
        tensor, array = truth(convert_to_tensor, "convert_to_tensor"), truth(convert_to_numpy, "convert_to_numpy")
        if tensor or not array:
            torch()
        with self._place(call.call.route, len(call.items), device, pool, chunk_size, show_progress_bar) as run:
            result = run(call.items, call.request)
        call.call.report(result.truncated, len(call.items))
        nothing = np.array([], np.float32 if tensor else np.float64)  # as in sentence-transformers
        values = scores_of(call, result) if call.items else nothing
        if tensor or not array:
            tensors = to_tensors(np.ascontiguousarray(values))
            if call.single:
                return tensors[0]
            return tensors if tensor else list(tensors)
        return values[0] if call.single else values

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: str | Activation | None = None,
        device: str | Sequence[str] | None = None,
        pool: "ProcessPool | None" = None,
        chunk_size: int | None = None,
        *,
        on_truncation: OnTruncation = "ignore",
        activation_fct: str | Activation | None = None,
        apply_softmax: bool | None = None,
        convert_to_numpy: bool | None = None,
        convert_to_tensor: bool | None = None,
        num_workers: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents by their scores for a query, the highest first; equal scores keep the order given.

        Args:
            query: The query.
            documents: The documents.
            top_k: The number of documents to return; None returns all.
            return_documents: Return the documents too.
            prompt_name: As for `predict`.
            prompt: As for `predict`.
            batch_size: As for `predict`.
            show_progress_bar: As for `predict`.
            activation_fn: As for `predict`.
            device: As for `predict`.
            pool: As for `predict`.
            chunk_size: As for `predict`.
            on_truncation: As for `predict`.
            activation_fct: The old name of `activation_fn`.
            apply_softmax: Has no effect, like the arguments below; callers of older versions pass it.
            convert_to_numpy: See `apply_softmax`.
            convert_to_tensor: See `apply_softmax`.
            num_workers: See `apply_softmax`.

        Returns:
            A dict for each document with "corpus_id", its index, "score", and "text" if asked for.

        Raises:
            TypeError: The query or a document is not a str; the message has its index.
            ValueError: The model has several labels, or another argument is out of range.

        Example:
            >>> model.rank("a question", ["a text", "another"], top_k=1)
            [{'corpus_id': 1, 'score': 4.2}]
        """
        without_effect = {
            "apply_softmax": apply_softmax,
            "convert_to_numpy": convert_to_numpy,
            "convert_to_tensor": convert_to_tensor,
            "num_workers": num_workers,
        }
        for name, value in without_effect.items():
            if value is not None:
                deprecated(f"{name}=", "an argument without an effect here")
        if self.num_labels != 1:
            raise ValueError(
                f"rank: expected a model with one label, got {self.num_labels}; sort the result of predict by one of "
                "them"
            )
        pairs, count = check_rank(query, documents, top_k)
        with_documents = truth(return_documents, "return_documents")
        scores = self.predict(
            pairs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            _renamed("activation_fct", activation_fct, "activation_fn", activation_fn),
            device=device,
            pool=pool,
            chunk_size=chunk_size,
            on_truncation=on_truncation,
        )
        return ranked(scores, count, [document for _, document in pairs] if with_documents else None)

    def _settings(self, name: str | None) -> Manifest:
        """The bundle's manifest with what was set on this model."""
        if not isinstance(self._activation, NamedActivation):
            raise ValueError(  # noqa: TRY004 - not of a type
                f"activation_fn: expected one with a name, such as 'Sigmoid', for a bundle to save, got "
                f"{shown(self._activation)}"
            )
        return dataclasses.replace(super()._settings(name), scoring=Scoring(self._activation.name))


def _renamed(old: str, old_value: Any, new: str, new_value: Any) -> Any:
    """The value of an argument that has an old name as well."""
    if old_value is None:
        return new_value
    if new_value is not None:
        raise TypeError(f"{old}: the old name of {new}, which is given too")
    deprecated(f"{old}=", f"{new}=")
    return old_value
