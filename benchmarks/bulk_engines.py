"""Engines of `benchmarks.bulk`, each in a process of its own: `python -m benchmarks.bulk_engines ENGINE JSON`.

A process encodes the column "body" of a Parquet file and writes the ids and the vectors, from its start to its last
byte. It prints a line of JSON: the time of the model's load, and of all.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_BATCH = 32  # of sentence-transformers, whose default it is
_ROWS = 1000  # of a batch of `datasets`, whose default it is


def texts(source: str) -> Iterator[str]:
    """The texts of the file."""
    for batch in pq.ParquetFile(source).iter_batches(columns=["body"]):
        yield from batch["body"].to_pylist()


def embedrt_stream(source: str, target: str, bundle: str, dtype: str, **_: str) -> float:
    """`encode_iter`: the model alone, without files of vectors."""
    from embedrt import Embedder

    begun = time.perf_counter()
    model = Embedder(bundle, device="cpu", dtype=dtype)
    loaded = time.perf_counter() - begun
    for _vectors in model.encode_iter(texts(source)):
        pass
    return loaded


def embedrt_bulk(source: str, target: str, bundle: str, dtype: str, **_: str) -> float:
    """`embedrt.bulk.run`, which encodes equal texts twice here as the others do."""
    import embedrt.bulk

    report = embedrt.bulk.run(
        source, target, model=bundle, device="cpu", dtype=dtype, text="body", keep=["id"], dedupe="none", progress=False
    )
    return report.seconds - report.made.seconds


def _sentence_transformers(model: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model, device="cpu", local_files_only=True)


def datasets_map(source: str, target: str, model: str, **_: str) -> float:
    """`datasets.Dataset.map` with sentence-transformers."""
    from datasets import Dataset, Features, Sequence, Value, disable_progress_bars

    disable_progress_bars()
    begun = time.perf_counter()
    encoder = _sentence_transformers(model)
    loaded = time.perf_counter() - begun
    rows = Dataset.from_parquet(source, cache_dir=target)
    width = encoder.get_sentence_embedding_dimension()
    vector = Sequence(Value("float32"), length=width)
    done = rows.map(
        lambda some: {"embedding": encoder.encode(some["body"], batch_size=_BATCH, show_progress_bar=False)},
        batched=True,
        batch_size=_ROWS,
        remove_columns=["body"],
        features=Features({"id": rows.features["id"], "embedding": vector}),
    )
    done.to_parquet(Path(target, "vectors.parquet"))
    return loaded


class RayActor:
    """sentence-transformers in an actor of Ray Data, as its documentation writes it."""

    def __init__(self, model: str) -> None:
        self.model = _sentence_transformers(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode a batch."""
        vectors = self.model.encode(list(batch["body"]), batch_size=_BATCH, show_progress_bar=False)
        return {"id": batch["id"], "embedding": vectors}


def ray_data(source: str, target: str, model: str, **_: str) -> float:
    """Ray Data with sentence-transformers in one actor that has all cores."""
    import ray

    ray.init(include_dashboard=False, log_to_driver=False)
    cores = int(ray.cluster_resources()["CPU"])
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    ray.data.read_parquet(source).map_batches(
        RayActor,
        fn_constructor_kwargs={"model": model},
        batch_size=_ROWS,
        num_cpus=max(cores - 1, 1),  # reading needs one
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(cores)}},
        compute=ray.data.ActorPoolStrategy(size=1),
    ).write_parquet(target)
    ray.shutdown()
    return 0.0


def ray_embedrt(source: str, target: str, bundle: str, dtype: str, **_: str) -> float:
    """Ray Data with `embedrt.integrations.ray.Encoder`."""
    import ray

    from embedrt.integrations.ray import Encoder

    ray.init(include_dashboard=False, log_to_driver=False)
    cores = int(ray.cluster_resources()["CPU"])
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.read_parquet(source).map_batches(
        Encoder,
        fn_constructor_kwargs={"model": bundle, "text": "body", "keep": "id", "dtype": dtype, "threads": cores},
        batch_format="pyarrow",
        batch_size=4096,
        num_cpus=max(cores - 1, 1),
        compute=ray.data.ActorPoolStrategy(size=1),
    ).write_parquet(target)
    ray.shutdown()
    return 0.0


def daft_embed_text(source: str, target: str, model: str, **_: str) -> float:
    """Daft's `embed_text` with its own provider, sentence-transformers."""
    import daft
    from daft.functions import embed_text

    rows = daft.read_parquet(source)
    vectors = embed_text(daft.col("body"), provider="transformers", model=model)
    rows.select(daft.col("id"), vectors.alias("embedding")).write_parquet(target)
    return 0.0


def daft_embedrt(source: str, target: str, bundle: str, dtype: str, **_: str) -> float:
    """Daft's `embed_text` with `EmbedrtProvider`."""
    import daft
    from daft.functions import embed_text

    from embedrt.integrations.daft import EmbedrtProvider

    vectors = embed_text(daft.col("body"), provider=EmbedrtProvider(dtype=dtype), model=bundle)
    daft.read_parquet(source).select(daft.col("id"), vectors.alias("embedding")).write_parquet(target)
    return 0.0


ENGINES: dict[str, Callable[..., float]] = {
    run.__name__: run
    for run in (embedrt_stream, embedrt_bulk, datasets_map, ray_data, ray_embedrt, daft_embed_text, daft_embedrt)
}


def vectors_of(target: Path) -> dict[int, Any]:
    """The vectors that an engine wrote, by id."""
    found: dict[int, Any] = {}
    for path in sorted(target.rglob("*.parquet")):
        table = pq.read_table(path)
        if "embedding" in table.column_names:
            column = table["embedding"].combine_chunks()
            storage = column.storage if isinstance(column, pa.ExtensionArray) else column
            flat = np.asarray(storage.flatten(), np.float32).reshape(len(storage), -1)
            found.update(zip(table["id"].to_pylist(), flat, strict=True))
    return found


def main() -> None:
    """Run an engine."""
    name, options = sys.argv[1], json.loads(sys.argv[2])
    begun = time.perf_counter()
    loaded = ENGINES[name](**options)
    print(json.dumps({"seconds": time.perf_counter() - begun, "load_seconds": loaded}), flush=True)


if __name__ == "__main__":
    main()
