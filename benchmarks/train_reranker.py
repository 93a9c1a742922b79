"""Train the low-rank updates of `examples/reranker.py`: all-MiniLM-L6-v2 as a cross-encoder.

    python -m benchmarks.train_reranker examples/reranker.safetensors --minutes 25
    python -m benchmarks.train_reranker better.safetensors --start examples/reranker.safetensors

Queries are headwords of the dictionary, and first sentences of docstrings of Python's standard library; each comes with
the text that it belongs to and seven that all-MiniLM-L6-v2 retrieves as well. The half of both that the example
measures is left out. It needs torch and transformers.
"""

import argparse
import ast
import math
import random
import sysconfig
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.corpus import FOLDOC, dictionary
from benchmarks.models import packaged
from benchmarks.retrieval import search
from embedrt import Embedder

_RANK, _RATE, _QUERIES, _CANDIDATES, _NEAREST = 8, 1e-3, 8, 8, 20
_WORDS, _TOKENS = 45, 64
_WARM_UP, _SAVED = 30, 100  # steps
_OTHERS = {"test", "tests", "site-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data", "encodings"}


@dataclass(frozen=True)
class Task:
    """Queries, and what they should find.

    Attributes:
        queries: The queries.
        documents: The documents.
        relevant: For every query, the indices of its documents.
        nearest: Indices of the documents that are most similar to each query, `[queries, nearest]`.
    """

    queries: list[str]
    documents: list[str]
    relevant: list[set[int]]
    nearest: NDArray[np.int64]


def task(queries: list[str], documents: list[str], relevant: list[set[int]], embedder: Embedder) -> Task:
    """A task with the documents that an embedding model finds."""
    documents = [" ".join(text.split()[:_WORDS]) for text in documents]
    found = embedder.encode(queries) @ embedder.encode(documents).T
    return Task(queries, documents, relevant, np.argsort(-found, axis=1)[:, : 2 * _NEAREST])


def of_dictionary(embedder: Embedder) -> Task:
    """Headwords of the second half of the dictionary."""
    whole = search(list(dictionary(FOLDOC)), 10**6, seed=0)
    start = (len(whole.documents) + 1) // 2
    kept = [(word, {i - start for i in some}) for word, some in zip(whole.queries, whole.relevant, strict=True)]
    kept = [(word, some) for word, some in kept if min(some) >= 0]
    return task([word for word, _ in kept], whole.documents[start:], [some for _, some in kept], embedder)


def of_docstrings(embedder: Embedder) -> Task:
    """First sentences of docstrings, by an odd checksum."""
    found: dict[str, str] = {}
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not _OTHERS & set(parts) and not any(part.startswith("_") and part != "__init__.py" for part in parts):
            found |= {head: rest for head, rest in _docstrings(path) if zlib.crc32(head.encode()) % 2}
    return task(list(found), list(found.values()), [{i} for i in range(len(found))], embedder)


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            head, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            head, rest = (" ".join(text.split()) for text in (head, rest))
            if 3 <= len(head.split()) <= 20 and len(rest.split()) >= 10:
                yield head, rest


def train(target: Path, start: Path | None, minutes: float) -> None:
    """Train for some minutes, with a learning rate that falls to 0, and save the updates in float16."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    draw = random.Random(0)
    torch.manual_seed(0)
    embedder = Embedder("all-MiniLM-L6-v2")
    tasks = [of_dictionary(embedder), *[of_docstrings(embedder)] * 3]
    items = [(one, i) for one in tasks for i in range(len(one.queries))]
    tokenizer = AutoTokenizer.from_pretrained(packaged())
    model: Any = BertForSequenceClassification.from_pretrained(packaged(), num_labels=1, dtype=torch.float32)
    updates = _with_updates(model, {} if start is None else load_file(start))
    parameters = [weight for pair in updates.values() for weight in pair]
    optimizer = torch.optim.AdamW([*parameters, *model.classifier.parameters()], lr=_RATE)
    model.train()
    began, step, loss = time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, step / _WARM_UP) * (1 - share)
        pairs = [pair for one, i in draw.sample(items, _QUERIES) for pair in _candidates(one, i, draw)]
        queries, documents = map(list, zip(*pairs, strict=True))
        inputs = tokenizer(
            queries, documents, padding=True, truncation="longest_first", max_length=_TOKENS, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits
        scores = logits.float().view(_QUERIES, _CANDIDATES)
        wrong = torch.nn.functional.cross_entropy(scores, torch.zeros(_QUERIES, dtype=torch.long))
        optimizer.zero_grad()
        wrong.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, loss = step + 1, 0.98 * loss + 0.02 * float(wrong)
        if step % _SAVED == 0:
            print(f"{step} steps, loss {loss / (1 - 0.98**step):.3f}", flush=True)
            _save(target, model, updates)
    _save(target, model, updates)


def _candidates(one: Task, number: int, draw: random.Random) -> list[tuple[str, str]]:
    """A query with the document that it should find first, and others that are similar to it."""
    right = min(one.relevant[number])
    others = [int(i) for i in one.nearest[number] if int(i) not in one.relevant[number]][:_NEAREST]
    chosen = [right, *draw.sample(others, _CANDIDATES - 1)]
    return [(one.queries[number], one.documents[i]) for i in chosen]


def _with_updates(model: Any, known: dict[str, NDArray[Any]]) -> dict[str, tuple[Any, Any]]:
    """Freeze a model and add low-rank updates to all linear layers but the last; returns them by layer."""
    import torch

    class Updated(torch.nn.Module):  # type: ignore[misc]  # torch is not in the environment that checks types
        """A linear layer with the weight `W + B A`."""

        def __init__(self, layer: Any, down: Any, up: Any) -> None:
            super().__init__()
            self.layer, self.down, self.up = layer, torch.nn.Parameter(down), torch.nn.Parameter(up)

        def forward(self, x: Any) -> Any:
            """See torch."""
            return self.layer(x) + (x @ self.down.T) @ self.up.T

    for parameter in model.parameters():
        parameter.requires_grad = False
    updates = {}
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, torch.nn.Linear):
            continue
        if name == "classifier":
            layer.requires_grad_()
            for part, values in layer.named_parameters():
                if (stored := known.get(f"classifier.{part}")) is not None:
                    values.data = torch.from_numpy(stored)
            continue
        down = torch.randn(_RANK, layer.in_features) / math.sqrt(layer.in_features)
        up = torch.zeros(layer.out_features, _RANK)
        if f"{name}.lora_A" in known:
            down, up = (torch.from_numpy(known[f"{name}.lora_{half}"].astype(np.float32)) for half in "AB")
        updated = Updated(layer, down, up)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, updated)
        updates[name] = (updated.down, updated.up)
    return updates


def _save(target: Path, model: Any, updates: dict[str, tuple[Any, Any]]) -> None:
    halves = {
        f"{name}.lora_{half}": weight.detach().numpy().astype(np.float16)
        for name, pair in updates.items()
        for half, weight in zip("AB", pair, strict=True)
    }
    head = {f"classifier.{name}": values.detach().numpy() for name, values in model.classifier.named_parameters()}
    save_file(halves | head, target)


def main() -> None:
    """Train, and write the updates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--start", type=Path, help="updates to go on from")
    parser.add_argument("--minutes", type=float, default=25)
    options = parser.parse_args()
    train(options.target, options.start, options.minutes)


if __name__ == "__main__":
    main()
