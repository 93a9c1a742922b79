"""`Embedder`: texts in, vectors out. Prompt and route are chosen here; the route's runner works."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

from embedrt.arguments import (
    coordinates,
    deprecated,
    device_name,
    one_of,
    positive,
    prompt_for,
    ranges_for,
    route_for,
    task_prompt,
)
from embedrt.errors import TruncationWarning
from embedrt.model import Model
from embedrt.quantization import Precision, quantize_embeddings
from embedrt.runner import SENTENCE, TOKENS, Answer, Request
from embedrt.signatures import OnTruncation, OutputValue, Texts, like, typed
from embedrt.tensors import to_tensors, torch
from embedrt.tokenizer import check_texts, preview

if TYPE_CHECKING:
    from embedrt.pool import ProcessPool

logger = logging.getLogger("embedrt")

# Texts that `encode_iter` reads at a time: few at first, so that the first vectors come soon.
_FIRST_WINDOW, _LARGEST_WINDOW = 64, 4096


@dataclass(frozen=True)
class _Call:
    """What the checked arguments of a call come to.

    Attributes:
        route: Who computes it.
        request: What is wanted of the route.
        precision: What the vectors are stored in.
        ranges: For int8 and uint8; None for those of the vectors themselves.
        on_truncation: What to do about texts that are cut off.
    """

    route: str
    request: Request
    precision: Precision
    ranges: ArrayLike | None
    on_truncation: OnTruncation

    def stored(self, values: Any) -> Any:
        """Vectors in the precision of the call."""
        return values if self.precision == "float32" else quantize_embeddings(values, self.precision, self.ranges)

    def report(self, truncated: list[int], texts: int) -> None:
        """Says what was cut off of so many texts."""
        if truncated:
            message = f"{len(truncated)} of {texts} texts cut off after {self.request.max_seq_length} tokens"
            logger.info("%s", message)
            if self.on_truncation == "warn":
                warnings.warn(f"{message}: {preview(truncated)}", TruncationWarning, stacklevel=3)


class Embedder(Model):
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

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message says what to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
        ValueError: Another argument is out of range, or has no meaning here.
    """

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
        pool: "ProcessPool | None" = None,
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
            pool: What `start_multi_process_pool` gave: its processes work instead of this one, wherever `device` is.
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
            deprecated("sentences=", "inputs=")
            inputs = sentences
        texts, single = check_texts(inputs)
        call = self._call(
            prompt_name,
            prompt,
            batch_size,
            output_value,
            precision,
            normalize_embeddings,
            truncate_dim,
            ranges,
            task,
            on_truncation,
        )
        tensors = convert_to_tensor or not convert_to_numpy
        if tensors:
            torch()
        answer = self._answer(texts, call, device, pool, chunk_size, show_progress_bar)
        call.report(answer.truncated, len(texts))
        values: Any = answer.values
        if output_value == TOKENS:
            values = [features[TOKENS] for features in values]
        values = call.stored(values)
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
        prompt_name = task_prompt(self.prompts, "query", prompt_name, prompt)
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
        prompt_name = task_prompt(self.prompts, "document", prompt_name, prompt)
        return self.encode(inputs, prompt_name, prompt, *arguments, task="document", **options)

    def encode_multi_process(
        self,
        sentences: Iterable[str],
        pool: "ProcessPool",
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
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
        call = self._call(
            prompt_name,
            prompt,
            batch_size,
            SENTENCE,
            precision,
            normalize_embeddings,
            truncate_dim,
            ranges,
            task,
            on_truncation,
        )
        if call.ranges is None and precision in {"int8", "uint8"}:
            raise ValueError(
                f"precision: {precision!r} of a stream needs ranges=, or a calibrated bundle; run "
                f"`embedrt calibrate {self.folder} --texts FILE`"
            )

        def windows() -> Iterator[NDArray[Any]]:
            texts, size, done = iter(inputs), _FIRST_WINDOW, 0
            while window := list(islice(texts, size)):
                check_texts(window, first=done)
                answer = self.runners[call.route].answer(window, call.request, first=done)
                done += len(window)
                call.report(answer.truncated, done)
                for vector in call.stored(answer.values):
                    yield vector.copy()  # so that one kept vector does not keep its whole window
                size = min(2 * size, _LARGEST_WINDOW)

        return windows()

    def _call(
        self,
        prompt_name: str | None,
        prompt: str | None,
        batch_size: int,
        output_value: OutputValue | None,
        precision: Precision | None,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        ranges: ArrayLike | None,
        task: str | None,
        on_truncation: OnTruncation,
    ) -> _Call:
        """Checks the arguments that all ways to encode have, before any work."""
        route = route_for(self.manifest, task)
        dim = self.get_embedding_dimension() if truncate_dim is None else coordinates(truncate_dim, self.manifest.dim)
        one_of(on_truncation, OnTruncation, "on_truncation")
        if output_value is not None:
            one_of(output_value, OutputValue, "output_value")
        request = Request(
            self._lengths[route],
            dim,
            prompt_for(self.prompts, self.default_prompt_name, prompt_name, prompt),
            positive(batch_size, "batch_size"),
            output_value,
            normalize_embeddings,
            refuse_truncation=on_truncation == "error",
        )
        stored: Precision = one_of(precision or "float32", Precision, "precision")
        if output_value != SENTENCE and not self.manifest.routes[route].has_token_embeddings:
            raise ValueError(f"output_value: {output_value!r}: the model {self.name!r} has no token embeddings")
        if output_value is None and stored != "float32":
            raise ValueError(f"precision: expected 'float32' for output_value=None, got {stored!r}")
        if stored in {"int8", "uint8"}:
            ranges = ranges_for(self.manifest, ranges, route, request)
        return _Call(route, request, stored, ranges, on_truncation)

    def _answer(
        self,
        texts: list[str],
        call: _Call,
        device: str | Sequence[str] | None,
        pool: "ProcessPool | None",
        chunk_size: int | None,
        show_progress_bar: bool | None,
    ) -> Answer:
        if chunk_size is not None:
            positive(chunk_size, "chunk_size")
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        with ExitStack() as stack:
            if pool is None and isinstance(device, list | tuple):
                pool = stack.enter_context(self.start_multi_process_pool(device))
            advance = stack.enter_context(_progress(len(texts), show_progress_bar))
            if pool is not None:
                self._check_pool(pool)
                return pool.answer(call.route, texts, call.request, chunk_size=chunk_size, advance=advance)
            runners = self.runners if device is None else self._on(device_name(device))
            return runners[call.route].answer(texts, call.request, advance=advance)

    def _check_pool(self, pool: "ProcessPool") -> None:
        from embedrt.pool import ProcessPool

        self._on(self._device)  # is an error after close
        if not isinstance(pool, ProcessPool):
            raise TypeError(f"pool: expected what start_multi_process_pool gave, got {type(pool).__name__}")
        if (pool.fingerprint, pool.precision) != (self.manifest.fingerprint, self.precision):
            raise ValueError("pool: it runs another model; use what start_multi_process_pool of this one gave")


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], Any]]:
    if not show:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Encoding", unit="text") as bar:
        yield bar.update
