"""`Embedder`: texts in, vectors out. Checks arguments, chooses prompt and route; the route's runner works."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedrt.bundle import read_bundle
from embedrt.errors import InferenceError, TruncationWarning
from embedrt.quantization import Precision, quantize_embeddings
from embedrt.runner import SENTENCE, TOKENS, Answer, Request, Runner
from embedrt.signatures import OnTruncation, OutputValue, Texts, Vectors, like, typed
from embedrt.similarity import find_similarity
from embedrt.store import resolve
from embedrt.tensors import to_tensors, torch
from embedrt.tokenizer import check_texts, preview

logger = logging.getLogger("embedrt")

# The prompts that `encode_query` and `encode_document` look for, the first that the model has.
_TASK_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
# Arguments of sentence-transformers that have no meaning without torch, and what to do instead.
_INSTEAD = {
    "modules": "embedrt runs exported models: build it with sentence-transformers, save it, then `embedrt export`",
    "backend": "there is one engine, ONNX Runtime; leave it out, and choose the hardware with device=",
    "model_kwargs": "there is no transformers model; precision= chooses among the bundle's graphs",
    "processor_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "tokenizer_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "config_kwargs": "the config is fixed by the export; change it in the repo and export again",
    "model_card_data": "push_to_hub writes the card from the bundle",
}
# Texts that `encode_iter` reads at a time: few at first, so that the first vectors come soon.
_FIRST_WINDOW, _LARGEST_WINDOW = 64, 4096


class Embedder:
    """A sentence embedding model, with the methods of `SentenceTransformer`. Safe to use from many threads at once.

    Args:
        model_name_or_path: A bundle folder, a name in the local store, or a hub id. What is not there yet is
            downloaded, if it is a bundle on the hub, or exported on the spot, if the extra `export` is installed.
        device: "cpu", "cuda", "cuda:1", "coreml" or "mps"; None and "auto" choose. Never another than the one named.
        prompts: Texts that go before an input, by name; they win over the model's own of the same name.
        default_prompt_name: The prompt for calls that name none; None takes the model's, if any.
        cache_folder: The store's folder; None takes `EMBEDRT_HOME`, `SENTENCE_TRANSFORMERS_HOME` or the user's cache.
        trust_remote_code: Has no effect: nothing from a model repo is ever run, trusted or not.
        revision: Branch, tag or commit of a hub repo.
        local_files_only: Never touch the network.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; None takes the model's, or cosine.
        truncate_dim: Coordinates to keep; None takes the model's default, if any.
        precision: Which of the bundle's graphs to run.
        threads: Processors to use; None takes what affinity and cgroup quota allow.
        max_tokens: Upper bound of a batch's texts times the tokens of its longest, which bounds the memory; None takes
            what suits the device. A single text that is longer is still read whole.
        modules: Not available, like all below: the error says what to do instead.
        backend: Only "onnx" is true of embedrt.
        model_kwargs: See `modules`.
        processor_kwargs: See `modules`.
        tokenizer_kwargs: See `modules`.
        config_kwargs: See `modules`.
        model_card_data: See `modules`.

    Attributes:
        folder: The bundle.
        manifest: What the bundle says of itself.
        precision: Which of its graphs runs.
        prompts: Texts that go before an input, by name; "query" and "document" are always there.
        default_prompt_name: The prompt for calls that name none.

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message says what to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
        ValueError: Another argument is out of range, or has no meaning here.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        device: str | None = None,
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
        precision: str = "fp32",
        threads: int | None = None,
        max_tokens: int | None = None,
        modules: None = None,
        backend: Literal["onnx"] | None = None,
        model_kwargs: None = None,
        processor_kwargs: None = None,
        tokenizer_kwargs: None = None,
        config_kwargs: None = None,
        model_card_data: None = None,
    ) -> None:
        _refuse(
            modules=modules,
            backend=None if backend == "onnx" else backend,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
        )
        self._threads = None if threads is None else _positive(threads, "threads")
        self._max_tokens = None if max_tokens is None else _positive(max_tokens, "max_tokens")
        folder = resolve(
            model_name_or_path,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
        )
        self.folder = folder.absolute()
        self.manifest = read_bundle(self.folder)
        self.precision = precision
        self._device = _device_name(device)
        self._runners = {self._device: self._load(self._device)}
        self._lengths = {name: route.max_seq_length for name, route in self.manifest.routes.items()}
        self.prompts = {"query": "", "document": "", **self.manifest.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or self.manifest.default_prompt_name
        self._prompt(None, None)  # whether there is such a prompt
        self.similarity_fn_name = similarity_fn_name or self.manifest.similarity_fn_name or "cosine"
        self.truncate_dim = self.manifest.truncate_dim if truncate_dim is None else truncate_dim

    def _load(self, device: str | None) -> dict[str, Runner]:
        return {
            name: Runner(
                self.folder, route, self.manifest, device, self.precision, self._threads, max_tokens=self._max_tokens
            )
            for name, route in self.manifest.routes.items()
        }

    def close(self) -> None:
        """Gives the memory back; calls after it are errors. At the end of a `with` block it is called by itself."""
        self._runners.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Embedder({self.name!r}, {self._device!r})"

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        """Names the vector space: vectors of equal fingerprints may share an index. `max_seq_length` is part of it."""
        changed = {
            name: length
            for name, length in self._lengths.items()
            if length != self.manifest.routes[name].max_seq_length
        }
        if not changed:
            return self.manifest.fingerprint
        return hashlib.sha256(f"{self.manifest.fingerprint} {sorted(changed.items())}".encode()).hexdigest()

    @property
    def runners(self) -> dict[str, Runner]:
        """What computes, by route.

        Raises:
            InferenceError: The model is closed.
        """
        return self._on(self._device)

    @property
    def device(self) -> str:
        """The device in use."""
        return self._any_runner.engine.device.name

    @property
    def engine(self) -> str:
        """Engine, version and execution provider in use."""
        return self._any_runner.engine.description

    @property
    def _any_runner(self) -> Runner:
        return next(iter(self.runners.values()))

    @property
    def similarity_fn_name(self) -> str:
        """The similarity function: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | Enum) -> None:
        self._similarity = find_similarity(value)
        self._similarity_fn_name = str(value.value if isinstance(value, Enum) else value)

    @property
    def truncate_dim(self) -> int | None:
        """Coordinates that calls keep if they name no number; None keeps all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = None if value is None else self._dim(value)

    def _dim(self, value: int) -> int:
        if type(value) is not int or not 1 <= value <= self.manifest.dim:
            raise ValueError(f"truncate_dim: expected 1 to {self.manifest.dim} or None, got {value!r}")
        return value

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

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of a text, special tokens included; None is all. What is beyond is cut off."""
        lengths = [length for length in self._lengths.values() if length is not None]
        return max(lengths, default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        for name, runner in self.runners.items():
            least, limit = runner.tokenize.special_tokens + 1, self.manifest.routes[name].position_limit
            in_range = limit is None if value is None else type(value) is int and least <= value
            if not in_range or (value is not None and limit is not None and value > limit):
                allowed = (
                    f"at least {least}, or None" if limit is None else f"{least} to {limit} (the model's positions)"
                )
                raise ValueError(f"max_seq_length: expected {allowed}, got {value!r}")
        self._lengths = dict.fromkeys(self._lengths, value)

    @typed
    def encode(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = SENTENCE,
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        ranges: ArrayLike | None = None,
        task: str | None = None,
        on_truncation: OnTruncation = "ignore",
        sentences: Texts | None = None,
    ) -> Any:
        """Turns texts into vectors, in the order given. A vector does not depend on the texts around it.

        Args:
            inputs: One str, or an iterable of str: list, tuple, generator, numpy array, pandas Series, ...
            prompt_name: Which of the model's prompts goes before every text; None takes the model's default, if any.
            prompt: A prompt of your own; it wins over `prompt_name`.
            batch_size: Upper bound of texts in a batch. Batches are planned by tokens and are mostly smaller.
            show_progress_bar: None shows it where the logger "embedrt" is at level INFO or below.
            output_value: "sentence_embedding"; "token_embeddings" for an array of every text; None for a dict of every
                text with all that the graph takes and gives, without padding.
            precision: What the vectors are stored in: "float32"; "int8" or "uint8", by the range of every coordinate;
                "binary" or "ubinary", 8 coordinates to a byte.
            convert_to_numpy: False gives a list of torch tensors.
            convert_to_tensor: True gives one torch tensor.
            device: Another device than the model's, or a list of devices: a process for each, for this call.
            normalize_embeddings: Scale the vectors to length 1, after truncation.
            truncate_dim: Keep only the first coordinates; None takes `Embedder.truncate_dim`.
            pool: What `start_multi_process_pool` gave: its processes work instead of this one.
            chunk_size: Texts that a process of the pool takes at a time.
            ranges: `[2, dim]`, smallest and largest value of every coordinate, for "int8" and "uint8". None takes the
                bundle's, if it is calibrated (`embedrt calibrate`), else those of the call's own vectors.
            task: What the texts are, such as "query" or "document", for models that treat these differently.
            on_truncation: What to do when a text is longer than the model reads: cut it off without a word, with a
                `TruncationWarning`, or raise a `TruncationError` before the model runs on it. The number of texts that
                were cut off is in the log.
            sentences: The old name of `inputs`.

        Returns:
            A numpy array of shape `[dim]` for a str, else `[len(inputs), dim]`; or what the arguments above ask for.

        Raises:
            TypeError: An item of `inputs` is not a str.
            ValueError: Another argument is out of range, or a prompt name unknown.
            NonFiniteError: The model returned NaN or infinity.
        """
        if sentences is not None:
            _deprecated("sentences=", "inputs=")
            inputs = sentences
        texts, single = check_texts(inputs)
        route, request = self._request(
            prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim, task, on_truncation
        )
        precision = _one_of(precision or "float32", Precision, "precision")
        tensors = convert_to_tensor or not convert_to_numpy
        if tensors:
            torch()
        bounds = self._ranges(ranges, route, request) if precision in {"int8", "uint8"} else None

        answer = self._answer(texts, route, request, device, pool, chunk_size, show_progress_bar)
        self._report(answer.truncated, len(texts), request, on_truncation)
        values: Any = answer.values
        if output_value == TOKENS:
            values = [features[TOKENS] for features in values]
        if precision != "float32":
            values = quantize_embeddings(values, precision, bounds)
        if tensors:
            values = to_tensors(values)
            if not convert_to_tensor and output_value == SENTENCE:
                values = list(values)
        return values[0] if single else values

    @like(encode)
    def encode_query(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """`encode` for what is searched with: the prompt named "query", and that task."""
        prompt_name = self._task_prompt("query", prompt_name, prompt)
        return self.encode(inputs, prompt_name, prompt, *arguments, task="query", **options)

    @like(encode)
    def encode_document(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """`encode` for what is searched in: the prompt "document", "passage" or "corpus", and the task "document"."""
        prompt_name = self._task_prompt("document", prompt_name, prompt)
        return self.encode(inputs, prompt_name, prompt, *arguments, task="document", **options)

    def encode_iter(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        *,
        precision: Precision = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        ranges: ArrayLike | None = None,
        task: str | None = None,
        on_truncation: OnTruncation = "ignore",
    ) -> Iterator[NDArray[Any]]:
        """Turns texts into vectors one after the other, in bounded memory however many they are.

        Texts are read as they are needed, up to 4096 ahead. Arguments and errors are those of `encode`; a text that is
        no str is found when it is read.

        Returns:
            A vector `[dim]` for every text, in the order given.
        """
        if isinstance(inputs, str):
            raise TypeError("inputs: expected an iterable of str, got one str; use encode")
        route, request = self._request(
            prompt_name, prompt, batch_size, SENTENCE, normalize_embeddings, truncate_dim, task, on_truncation
        )
        precision = _one_of(precision, Precision, "precision")
        bounds = self._ranges(ranges, route, request) if precision in {"int8", "uint8"} else None
        if bounds is None and precision in {"int8", "uint8"}:
            raise ValueError(
                f"precision: {precision!r} of a stream needs ranges=, or a calibrated bundle; run "
                f"`embedrt calibrate {self.folder} --texts FILE`"
            )

        def windows() -> Iterator[NDArray[Any]]:
            texts, size, done = iter(inputs), _FIRST_WINDOW, 0
            while window := list(islice(texts, size)):
                check_texts(window, first=done)
                answer = self.runners[route].answer(window, request, first=done)
                done += len(window)
                self._report(answer.truncated, done, request, on_truncation)
                values: Any = answer.values
                if precision != "float32":
                    values = quantize_embeddings(values, precision, bounds)
                for vector in values:
                    yield vector.copy()  # so that one kept vector does not keep its whole window
                size = min(2 * size, _LARGEST_WINDOW)

        return windows()

    def tokenize(self, texts: Texts, task: str | None = None) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs, padded to the longest text: int64 `[len(texts), tokens]`, cut off at `max_seq_length`."""
        route = self._route(task)
        runner = self.runners[route]
        return runner.inputs(runner.tokenizer(self._lengths[route])(check_texts(texts)[0]))

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
        route = self._route(task)
        tokenize = self.runners[route].tokenizer(self._lengths[route] if truncation else None)
        counts = [len(ids) for ids in tokenize(items).ids]
        return counts[0] if single else counts

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Vectors:
        """Similarity of every vector of the first to every vector of the second, float32 `[n, m]`."""
        return self._similarity.matrix(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Vectors:
        """Similarity of each vector of the first to the one at the same place in the second, float32 `[n]`."""
        return self._similarity.pairwise(embeddings1, embeddings2)

    def _on(self, device: str | None) -> dict[str, Runner]:
        if not self._runners:
            raise InferenceError(f"the model {self.name!r} is closed; load it again")
        if device not in self._runners:
            self._runners[device] = self._load(device)
        return self._runners[device]

    def _answer(
        self,
        texts: list[str],
        route: str,
        request: Request,
        device: str | Sequence[str] | None,
        pool: Any,
        chunk_size: int | None,
        show_progress_bar: bool | None,
    ) -> Answer:
        if chunk_size is not None:
            _positive(chunk_size, "chunk_size")
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        with _progress(len(texts), show_progress_bar) as advance:
            runners = self.runners if device is None else self._on(_device_name(device))
            return runners[route].answer(texts, request, advance=advance)

    def _request(
        self,
        prompt_name: str | None,
        prompt: str | None,
        batch_size: int,
        output_value: OutputValue | None,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        task: str | None,
        on_truncation: OnTruncation,
    ) -> tuple[str, Request]:
        """Checks the arguments that every way to encode has; returns the route and what is wanted of it."""
        route = self._route(task)
        prefix = self._prompt(prompt_name, prompt)
        _positive(batch_size, "batch_size")
        _one_of(on_truncation, OnTruncation, "on_truncation")
        if output_value is not None:
            _one_of(output_value, OutputValue, "output_value")
        if output_value != SENTENCE and not self.manifest.routes[route].has_token_embeddings:
            raise ValueError(f"output_value: {output_value!r}: the model {self.name!r} has no token embeddings")
        return route, Request(
            self._lengths[route],
            self.get_embedding_dimension() if truncate_dim is None else self._dim(truncate_dim),
            prefix,
            batch_size,
            output_value,
            normalize_embeddings,
            refuse_truncation=on_truncation == "error",
        )

    def _ranges(self, ranges: ArrayLike | None, route: str, request: Request) -> ArrayLike | None:
        """The ranges to quantize with; None for those of the call's own vectors."""
        kept = self.manifest.vector_ranges
        if ranges is not None or kept is None or request.output_value != SENTENCE:
            return ranges
        scaled = not self.manifest.routes[route].normalized or request.dim < self.manifest.dim
        if request.normalize_embeddings and scaled:
            raise ValueError(
                "ranges: those in the bundle are of vectors as the model gives them, and normalize_embeddings scales "
                "these; give the ranges of normalized vectors"
            )
        return np.asarray(kept, np.float32)[:, : request.dim]

    def _report(self, truncated: list[int], seen: int, request: Request, on_truncation: OnTruncation) -> None:
        if truncated:
            message = f"{len(truncated)} of {seen} texts cut off after {request.max_seq_length} tokens"
            logger.info("%s", message)
            if on_truncation == "warn":
                warnings.warn(f"{message}: {preview(truncated)}", TruncationWarning, stacklevel=3)

    def _route(self, task: str | None) -> str:
        name = "" if task is None else task
        if name not in self.manifest.tasks:
            known = ", ".join(repr(known) for known in self.manifest.tasks if known)
            raise ValueError(
                f"task: {task!r} is unknown; known: {known}"
                if task
                else f"task: this model treats texts by task and has no default; one of {known} is needed"
            )
        return self.manifest.tasks[name]

    def _task_prompt(self, task: str, name: str | None, prompt: str | None) -> str | None:
        if name is not None or prompt is not None:
            return name
        return next((name for name in _TASK_PROMPTS[task] if name in self.prompts), None)

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None and name is not None:
            logger.warning("both prompt and prompt_name are given; prompt wins")
        if prompt is None:
            name = self.default_prompt_name if name is None else name
            if name is None:
                return ""
            if name not in self.prompts:
                known = ", ".join(map(repr, self.prompts))
                raise ValueError(f"prompt_name: {name!r} is unknown; known: {known}")
            prompt = self.prompts[name]
        if not isinstance(prompt, str):
            raise TypeError(f"prompt: expected str or None, got {type(prompt).__name__}")
        check_texts(prompt, "prompt")
        return prompt


def _refuse(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name}: not available in embedrt; {_INSTEAD[name]}")


def _device_name(device: Any) -> str | None:
    """A torch.device by its name; anything else as it is."""
    name: str | None = str(device) if type(device).__module__ == "torch" else device
    return name


def _positive(value: Any, name: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return value


def _one_of(value: Any, literal: Any, name: str) -> Any:
    if value not in get_args(literal):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, get_args(literal)))}, got {value!r}")
    return value


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is the old name of {new}", DeprecationWarning, stacklevel=3)


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], Any]]:
    if not show:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Encoding", unit="text") as bar:
        yield bar.update
