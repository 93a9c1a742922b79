"""sentence-transformers on torch in a process of its own, as `python -m benchmarks.gpu.peer TEXTS DEVICE`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.numbers import median_ms, read_texts
from embedrt.bench.worker import Answer, Task, serve

_SECONDS = 0.5  # for each size of matmul


class Peer:
    """One loaded model at a time.

    Args:
        texts: The file with the texts by workload.
        device: The device in torch's words.
    """

    def __init__(self, texts: Path, device: str) -> None:
        import torch

        self._torch = torch
        self._texts = read_texts(texts)
        self._device = device
        self._model: Any = None
        # Float32 is the reference.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def matmul(self, dtype: str, sizes: list[list[int]]) -> Answer:
        """The device's own rate in TFLOP/s, for the sizes m, k and n."""
        torch, rates = self._torch, []
        for m, k, n in sizes:
            a, b = (torch.randn(*shape, dtype=getattr(torch, dtype), device=self._device) for shape in ((m, k), (k, n)))
            runs = self._repeat(lambda a=a, b=b: a @ b)  # type: ignore[misc]
            rates.append(runs * 2 * m * k * n / 1e12)
        return {"tflop_per_s": rates}

    def _repeat(self, run: Callable[[], Any]) -> float:
        """Runs per second."""
        for _ in range(3):
            run()
        self._wait()
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < _SECONDS:
            for _ in range(10):
                run()
            self._wait()
            runs += 10
        return runs / (time.perf_counter() - start)

    def load(self, folder: str, dtype: str, attention: str) -> Answer:
        """Load a model in place of the one before."""
        from sentence_transformers import SentenceTransformer

        self._model = None
        self._free()
        options = {"dtype": dtype, "attn_implementation": attention}
        start = time.perf_counter()
        self._model = SentenceTransformer(folder, device=self._device, model_kwargs=options)
        self._model.encode(self._texts["mixed"][:8])
        return {"seconds": time.perf_counter() - start}

    def encode(self, workload: str, count: int, batch: int, save: str | None = None) -> Answer:
        """Encode texts from end to end; sentence-transformers sorts them by length."""
        texts = self._texts[workload][:count]
        start = time.perf_counter()
        vectors = self._model.encode(texts, batch_size=batch, show_progress_bar=False, convert_to_numpy=True)
        seconds = time.perf_counter() - start
        if save is not None:
            np.save(save, np.asarray(vectors, np.float32))
        return {"seconds": seconds, "texts": len(texts)}

    def model_alone(self, workload: str, count: int, batch: int) -> Answer:
        """Batches that are sorted, tokenized and on the device before."""
        torch = self._torch
        texts = sorted(self._texts[workload][:count], key=len, reverse=True)
        batches = [self._features(texts[i : i + batch]) for i in range(0, len(texts), batch)]
        tokens = sum(int(features["attention_mask"].sum()) for features in batches)
        with torch.inference_mode():
            for features in (batches[0], batches[-1]):
                self._model(dict(features))
            self._wait()
            start = time.perf_counter()
            for features in batches:
                self._model(dict(features))
            self._wait()
        return {"seconds": time.perf_counter() - start, "texts": len(texts), "tokens": tokens}

    def _features(self, texts: list[str]) -> dict[str, Any]:
        features = self._model.preprocess(texts) if hasattr(self._model, "preprocess") else self._model.tokenize(texts)
        return {name: value.to(self._device) for name, value in features.items() if hasattr(value, "to")}

    def query(self, text: str, repeat: int) -> Answer:
        """A whole call with one text."""
        return {"call_p50_ms": median_ms(lambda: self._model.encode(text, show_progress_bar=False), repeat)}

    def _wait(self) -> None:
        if self._device.startswith("cuda"):
            self._torch.cuda.synchronize()

    def _free(self) -> None:
        if self._device.startswith("cuda"):
            self._torch.cuda.empty_cache()


def main() -> None:
    """Serve."""

    def load() -> dict[str, Task]:
        peer = Peer(Path(sys.argv[1]), sys.argv[2])
        return {task.__name__: task for task in (peer.matmul, peer.load, peer.encode, peer.model_alone, peer.query)}

    serve(load)


if __name__ == "__main__":
    main()
