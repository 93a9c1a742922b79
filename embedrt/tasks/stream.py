"""Streaming: an iterator of texts to an iterator of vectors, in bounded memory."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from embedrt.inputs.check import check_texts
from embedrt.run.request import Run
from embedrt.tasks.call import Settings, call_for
from embedrt.tasks.embed import embed
from embedrt.types import OnTruncation, Precision

# Texts that `encode_iter` reads at a time: few at first, so that the first vectors arrive early.
_FIRST_WINDOW, _LARGEST_WINDOW = 64, 4096


def encode_iter(
    model: Settings,
    inputs: Iterable[str],
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    *,
    precision: Precision = "float32",
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    ranges: NDArray[Any] | None = None,
    task: str | None = None,
    on_truncation: OnTruncation = "ignore",
) -> Iterator[NDArray[Any]]:
    """Encode a stream of texts one by one; see `Embedder.encode_iter`."""
    if isinstance(inputs, str):
        raise TypeError("inputs: expected an iterable of str, got one str; use encode")
    call = call_for(
        model,
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
    if call.ranges is None and precision in {"int8", "uint8"}:
        raise ValueError(
            f"ranges: precision={precision!r} needs ranges for a stream; pass ranges=, or measure them with "
            f"`embedrt ranges {model.folder} --texts FILE`"
        )

    def windows() -> Iterator[NDArray[Any]]:
        texts, size, done = iter(inputs), _FIRST_WINDOW, 0
        while window := list(islice(texts, size)):
            check_texts(window, first=done)
            run: Run = partial(model.runners[call.route].run, indexes=range(done, done + len(window)))
            result = embed(run, window, call)
            done += len(window)
            call.report(result.truncated, done)
            for vector in result.values:
                yield vector.copy()  # a view would keep the whole window alive
            size = min(2 * size, _LARGEST_WINDOW)

    return windows()
