"""`Embedder`: texts in, vectors out. Prompt and route are chosen here; the route's runner works."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from embedrt.inputs.text import check_texts
from embedrt.model import Model
from embedrt.run.request import Run
from embedrt.tasks import long_texts
from embedrt.tasks import stream as streaming
from embedrt.tasks.arguments import deprecated, device_name, positive
from embedrt.tasks.call import call_for, task_prompt
from embedrt.tasks.embed import embed
from embedrt.types import SENTENCE, OnTruncation, OutputValue, Texts, async_like, like, typed
from embedrt.vectors.quantization import Precision
from embedrt.vectors.torch_tensors import to_tensors, torch

if TYPE_CHECKING:
    from embedrt.run.processes import ProcessPool

logger = logging.getLogger("embedrt")


class Embedder(Model):
    """A sentence embedding model, with the methods of `SentenceTransformer`. Safe to use from many threads at once.

    Args:
        model_name_or_path: A bundle folder, a name in the local store, or a hub id. What is not there yet is
            downloaded, if it is a bundle on the hub, or exported on the spot, if the extra `export` is installed.
        device: "cpu", "cuda", "cuda:1", "coreml", "mps", "openvino" or "openvino:GPU"; None and "auto" choose, by what
            `embedrt tune` measured if it did. Never another than the one named.
        prompts: Texts that go before an input, by name; they win over the model's own of the same name.
        default_prompt_name: The prompt for calls that name none; None takes the model's, if any.
        cache_folder: The store's folder; None takes `EMBEDRT_HOME`, `SENTENCE_TRANSFORMERS_HOME` or the user's cache.
        trust_remote_code: Has no effect: nothing from a model repo is ever run, trusted or not.
        revision: Branch, tag or commit of a hub repo.
        local_files_only: Never touch the network.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; None takes the model's, or cosine.
        truncate_dim: Coordinates to keep; None takes the model's default, if any.
        precision: Which of the bundle's graphs to run, or "bf16" on a device that can compute the fp32 graph so; "auto"
            takes the fastest that `embedrt tune` measured here and found good enough, and "fp32" if it did not.
        threads: Processors to use; None takes what was tuned, else what affinity and cgroup quota allow.
        max_tokens: Upper bound of a batch's texts times the tokens of its longest, which bounds the memory; None takes
            what was tuned, else what suits the device. A single text that is longer is still read whole.
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
        ranges: NDArray[Any] | None = None,
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
        tensors = convert_to_tensor or not convert_to_numpy
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

    @async_like(encode)
    async def aencode(self, *arguments: Any, **options: Any) -> Any:
        """`encode` for an event loop, which it never blocks: the work is done by another thread."""
        import asyncio  # callers have it already; for all others it would double the time of our own import

        return await asyncio.to_thread(self.encode, *arguments, **options)

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

    encode_iter = streaming.encode_iter
    encode_long = long_texts.encode_long
    encode_chunks = long_texts.encode_chunks
    windows = long_texts.windows

    @contextmanager
    def _place(
        self,
        route: str,
        total: int,
        device: str | Sequence[str] | None,
        pool: "ProcessPool | None",
        chunk_size: int | None,
        show_progress_bar: bool | None,
    ) -> Iterator[Run]:
        """The place where a call is computed, with its progress bar."""
        if chunk_size is not None:
            chunk_size = positive(chunk_size, "chunk_size")
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        with ExitStack() as stack:
            if pool is None and isinstance(device, list | tuple):
                pool = stack.enter_context(self.start_multi_process_pool(device))
            advance = stack.enter_context(_progress(total, show_progress_bar))
            if pool is not None:
                self._check_pool(pool)
                yield partial(pool.run, route=route, chunk_size=chunk_size, advance=advance)
            else:
                runners = self.runners if device is None else self._on(device_name(device))
                yield partial(runners[route].run, advance=advance)

    def _check_pool(self, pool: "ProcessPool") -> None:
        from embedrt.run.processes import ProcessPool

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
