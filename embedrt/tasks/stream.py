"""Streaming: an iterator of texts to an iterator of vectors, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from embedrt.inputs.check import check_texts, require_collection
from embedrt.run.request import Run
from embedrt.run.runner import Runner
from embedrt.tasks.call import Call
from embedrt.tasks.embed import embed

# Texts that `encode_iter` reads at a time: few at first, so that the first vectors arrive early. In the end at least
# as many as a batch has tokens, and so many for each worker, as nothing is computed while a window is read.
_FIRST_WINDOW, _LARGEST_WINDOW = 64, 4096
_FOR_EACH_WORKER = 128


def encode_iter(
    runners: Callable[[], Mapping[str, Runner]], inputs: Iterable[str], call: Call
) -> Iterator[NDArray[Any]]:
    """Encode a stream of texts one by one.

    Args:
        runners: The runners by route; asked for each window, so that a closed model is an error.
        inputs: The texts.
        call: The call.

    Yields:
        A vector `[dim]` for each text, in order.
    """
    if isinstance(inputs, str):
        raise TypeError("inputs: expected an iterable of str, got one str; use encode")
    require_collection(inputs, "inputs")
    if call.ranges is None and call.precision in {"int8", "uint8"}:
        raise ValueError(
            f"ranges: precision={call.precision!r} needs ranges for a stream; pass ranges=, or measure them with "
            f"`embedrt ranges {runners()[call.route].folder} --texts FILE`"
        )

    def windows() -> Iterator[NDArray[Any]]:
        texts, size, done = iter(inputs), _FIRST_WINDOW, 0
        while window := list(islice(texts, size)):
            window, _ = check_texts(window, first=done)
            runner = runners()[call.route]
            run: Run = partial(runner.run, indexes=range(done, done + len(window)))
            result = embed(run, window, call)
            done += len(window)
            call.report(result.truncated, done)
            values = result.values
            del result
            for vector in values:
                yield vector.copy()  # a view would keep the whole window alive
            del values, vector, window  # before the next window is computed
            for_workers = _FOR_EACH_WORKER * runner.engine.workers
            size = min(2 * size, max(_LARGEST_WINDOW, for_workers, runner.placement.max_tokens))

    return windows()
