"""Use of each engine, as its documentation shows it to somebody who cares for speed.

Runs in the process of the engine, also in interpreters that have neither embedrt nor its dependencies, so nothing but
numpy is imported at the top.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_OPENVINO_TOKENS = 512  # of a batch; 1024 was nearly even, 2048 and more slower
_LLAMA_TOKENS = 256  # of a batch; 512 took 1.6 times as long, and every text is cut at 256 anyway


@dataclass(frozen=True)
class Files:
    """Files that engines load.

    Attributes:
        model: The model folder, as on the hub.
        bundle: The bundle made of it.
        prepared: The folder with what `benchmarks.prepare` makes, under the names of `Engine.needs`.
    """

    model: Path
    bundle: Path
    prepared: Path


@dataclass(frozen=True)
class Loaded:
    """A loaded engine.

    Attributes:
        encode: Texts to vectors.
        encode_iter: The same for a stream, where the engine has it.
    """

    encode: Encode
    encode_iter: Callable[[Iterable[str]], Iterator[Vectors]] | None = None


Load = Callable[[Files], Loaded]


def embedrt(device: str = "cpu", dtype: str = "float32") -> Load:
    """Embedrt with one device and dtype."""

    def load(files: Files) -> Loaded:
        from embedrt import Embedder

        model = Embedder(files.bundle, device=device, dtype=dtype)
        return Loaded(model.encode, model.encode_iter)

    return load


def sentence_transformers(dtype: str) -> Load:
    """The reference, on torch."""

    def load(files: Files) -> Loaded:
        from sentence_transformers import SentenceTransformer

        # The type is named because recent releases take it from the files, and fp32 is what the others compute in.
        model: Any = SentenceTransformer(
            str(files.model), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        )
        return Loaded(lambda texts: np.asarray(model.encode(texts, show_progress_bar=False), np.float32))

    return load


def sentence_transformers_onnx(files: Files) -> Loaded:
    """Its backend on ONNX Runtime, from the file that it exported itself."""
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(
        str(files.prepared / "optimum"),
        device="cpu",
        backend="onnx",
        local_files_only=True,
        model_kwargs={"provider": "CPUExecutionProvider"},
    )
    return Loaded(lambda texts: np.asarray(model.encode(texts, show_progress_bar=False), np.float32))


def onnxruntime(files: Files) -> Loaded:
    """Code that one writes without a library."""
    import onnxruntime as engine

    tokenizer = _tokenizer(files)
    session = engine.InferenceSession(str(files.bundle / "onnx/model.onnx"), providers=["CPUExecutionProvider"])

    def encode(texts: list[str]) -> Vectors:
        tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]), reverse=True)
        vectors = []
        for start in range(0, len(order), 32):
            inputs = _padded([tokens[i] for i in order[start : start + 32]])
            vectors.append(session.run(["sentence_embedding"], inputs)[0])
        return np.concatenate(vectors)[np.argsort(order)]

    return Loaded(encode)


def openvino(precision: str) -> Load:
    """OpenVINO without a library around it."""

    def load(files: Files) -> Loaded:
        import openvino as engine

        tokenizer, core = _tokenizer(files), engine.Core()
        cores = _cores()
        compiled: dict[str, Any] = {}

        def queue(hint: str) -> Any:
            if hint not in compiled:
                options = {
                    "INFERENCE_PRECISION_HINT": precision,
                    "PERFORMANCE_HINT": hint,
                    "INFERENCE_NUM_THREADS": cores,
                    "NUM_STREAMS": cores if hint == "THROUGHPUT" else 1,
                }
                model = core.compile_model(str(files.bundle / "onnx/model.onnx"), "CPU", options)
                compiled[hint] = engine.AsyncInferQueue(model)
            return compiled[hint]

        def encode(texts: list[str]) -> Vectors:
            tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
            requests = queue("LATENCY" if len(texts) == 1 else "THROUGHPUT")
            parts: dict[int, tuple[list[int], Vectors]] = {}

            def done(request: Any, rows: list[int]) -> None:
                parts[rows[0]] = rows, request.get_tensor("sentence_embedding").data.copy()

            requests.set_callback(done)
            for rows in _batches([len(ids) for ids in tokens], _OPENVINO_TOKENS):
                requests.start_async(_padded([tokens[row] for row in rows]), rows)
            requests.wait_all()
            vectors = np.empty((len(texts), next(iter(parts.values()))[1].shape[1]), np.float32)
            for rows, part in parts.values():
                vectors[rows] = part
            return vectors

        return Loaded(encode)

    return load


def fastembed(batch_size: int) -> Load:
    """fastembed with a model of one's own."""

    def load(files: Files) -> Loaded:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        folder = files.prepared / "limited"
        # Its catalogue names a file on the hub. A custom model is the public way to a local one; the source is required
        # and, with a local path, never asked. Mean pooling of token embeddings is what its own entry does.
        TextEmbedding.add_custom_model(
            model="local/model",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf=HUB_ID),
            dim=_config(files)["hidden_size"],
            model_file="onnx/model.onnx",
            additional_files=["onnx/model.onnx.data"],
            output_name="token_embeddings",
        )
        model: Any = TextEmbedding(
            "local/model",
            cache_dir=str(folder),  # nothing goes there; without it a folder for downloads is made
            providers=["CPUExecutionProvider"],
            specific_model_path=str(folder),
        )
        return Loaded(lambda texts: np.asarray(list(model.embed(texts, batch_size=batch_size)), np.float32))

    return load


def light_embed(batch_size: int) -> Load:
    """light-embed with a local folder."""

    def load(files: Files) -> Loaded:
        from light_embed import TextEmbedding

        # A local folder needs a config; this is the entry that its catalogue has for this model.
        config = {"onnx_file": "onnx/model.onnx", "pooling_config_path": "1_Pooling", "normalize": True}
        model: Any = TextEmbedding(str(files.prepared / "limited"), device="cpu", model_config=config)
        return Loaded(lambda texts: np.asarray(model.encode(texts, batch_size=batch_size), np.float32))

    return load


def candding(files: Files) -> Loaded:
    """candding reads models of its catalogue from the hub's cache."""
    os.environ["HF_HOME"] = str(files.prepared / "hub")
    os.environ.pop("HF_HUB_CACHE", None)
    import candding as engine

    model: Any = engine.TextEmbedding(HUB_ID, device="cpu", batch_size=1)
    return Loaded(lambda texts: np.asarray(model.embed(texts), np.float32))


def llama_cpp(kind: str) -> Load:
    """llama.cpp with a GGUF file made of the weights."""

    def load(files: Files) -> Loaded:
        from llama_cpp import Llama

        tokenizer, limit = _tokenizer(files), _limit(files)
        tokenizer.no_truncation()
        cores = _cores()
        model: Any = Llama(
            str(files.prepared / f"gguf-{kind}"),
            embedding=True,
            n_ctx=max(limit, _LLAMA_TOKENS),
            n_batch=_LLAMA_TOKENS,
            n_ubatch=_LLAMA_TOKENS,
            n_threads=cores,
            n_threads_batch=cores,
            verbose=False,
        )

        def cut(text: str) -> str:
            """Truncate before the engine does: its own truncation loses the final special token."""
            encoded = tokenizer.encode(text)
            return text if len(encoded.ids) <= limit else text[: encoded.offsets[limit - 2][1]]

        return Loaded(lambda texts: np.asarray(model.embed([cut(text) for text in texts], normalize=True), np.float32))

    return load


def model2vec(files: Files) -> Loaded:
    """A static model, distilled from this one."""
    from model2vec import StaticModel

    model: Any = StaticModel.from_pretrained(files.prepared / "static")
    return Loaded(lambda texts: np.asarray(model.encode(texts), np.float32))


def _tokenizer(files: Files) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_limit(files))
    return tokenizer


def _limit(files: Files) -> int:
    limit: int = json.loads((files.model / "sentence_bert_config.json").read_text())["max_seq_length"]
    return limit


def _config(files: Files) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((files.model / "config.json").read_text())
    return config


def _batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Rows of near-equal length, longest first, at most so many tokens with their padding."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if rows and (len(rows) + 1) * lengths[rows[0]] > budget:
            yield rows
            rows = []
        rows.append(row)
    yield rows


def _padded(tokens: list[list[int]]) -> dict[str, NDArray[np.int64]]:
    ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    mask = np.zeros_like(ids)
    for row, some in enumerate(tokens):
        ids[row, : len(some)] = some
        mask[row, : len(some)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
