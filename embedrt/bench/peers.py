"""Use of each engine, as its documentation shows it to somebody who cares for speed.

`worker` loads this file by its path in the process of the engine, which may be an interpreter without embedrt. So
nothing but numpy is imported at the top.
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
"""The model of `candding`, which knows no other by its path."""
_OPENVINO_TOKENS = 512  # of a batch; 1024 was nearly even, 2048 and more slower
_LLAMA_TOKENS = 256  # of a batch; 512 took 1.6 times as long


@dataclass(frozen=True)
class Files:
    """Files that engines load.

    Attributes:
        model: The model folder, as on the hub; None where it is not at hand.
        bundle: The bundle made of it.
        prepared: The folder for files that are made for some engines, under the names of `Engine.needs`.
    """

    model: Path | None
    bundle: Path
    prepared: Path

    @property
    def source(self) -> Path:
        """The model folder, for engines that need it."""
        assert self.model is not None
        return self.model

    @property
    def manifest(self) -> dict[str, Any]:
        """The bundle's manifest, as plain JSON."""
        manifest: dict[str, Any] = json.loads((self.bundle / "embedrt.json").read_bytes())
        return manifest

    @property
    def route(self) -> dict[str, Any]:
        """The only route of the bundle."""
        (route,) = self.manifest["routes"].values()
        found: dict[str, Any] = route
        return found

    @property
    def graph(self) -> dict[str, Any]:
        """The variant that other engines run: float32, padded, standard operators."""
        found: dict[str, Any] = next(
            variant
            for variant in self.route["variants"]
            if (variant["dtype"], variant["layout"], variant["operators"]) == ("float32", "padded", "portable")
        )
        return found


@dataclass(frozen=True)
class Loaded:
    """A loaded engine.

    Attributes:
        encode: Texts to vectors.
        encode_iter: The same for a stream, where the engine has it.
    """

    encode: Encode
    encode_iter: Callable[[Iterable[str]], Iterator[Vectors]] | None = None


def embedrt(files: Files, device: str, dtype: str) -> Loaded:
    """Embedrt with one device and dtype."""
    from embedrt import Embedder

    model = Embedder(files.bundle, device=device, dtype=dtype)
    return Loaded(model.encode, model.encode_iter)


def sentence_transformers(files: Files, dtype: str, device: str = "cpu") -> Loaded:
    """The reference, on torch."""
    from sentence_transformers import SentenceTransformer

    # The type is named because recent releases take it from the files, and float32 is the reference.
    model: Any = SentenceTransformer(
        str(files.source), device=device, local_files_only=True, model_kwargs={"dtype": dtype}
    )
    return Loaded(lambda texts: np.asarray(model.encode(texts, show_progress_bar=False), np.float32))


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

    tokenizer, padded = _tokenizer(files), _padding(files)
    session = engine.InferenceSession(str(files.bundle / files.graph["file"]), providers=["CPUExecutionProvider"])

    def encode(texts: list[str]) -> Vectors:
        tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]), reverse=True)
        vectors = []
        for start in range(0, len(order), 32):
            inputs = padded([tokens[i] for i in order[start : start + 32]])
            vectors.append(session.run(["sentence_embedding"], inputs)[0])
        return np.concatenate(vectors)[np.argsort(order)]

    return Loaded(encode)


def openvino(files: Files, precision: str) -> Loaded:
    """OpenVINO without a library around it."""
    import openvino as engine

    tokenizer, padded, core = _tokenizer(files), _padding(files), engine.Core()
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
            model = core.compile_model(str(files.bundle / files.graph["file"]), "CPU", options)
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
            requests.start_async(padded([tokens[row] for row in rows]), rows)
        requests.wait_all()
        vectors = np.empty((len(texts), next(iter(parts.values()))[1].shape[1]), np.float32)
        for rows, part in parts.values():
            vectors[rows] = part
        return vectors

    return Loaded(encode)


def fastembed(files: Files, batch_size: int) -> Loaded:
    """Fastembed with a model of one's own."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder, graph = files.prepared / "limited", files.graph
    # Its catalogue names a file on the hub. A custom model is the public way to a local one; the source is required
    # and, with a local path, never asked. Pooling of token embeddings is what its own entries do.
    TextEmbedding.add_custom_model(
        model="local/model",
        pooling=PoolingType[_pooling(files).upper()],
        normalization=files.route["outputs"]["sentence_embedding"]["normalized"],
        sources=ModelSource(hf=HUB_ID),
        dim=files.route["outputs"]["token_embeddings"]["width"],
        model_file=graph["file"],
        additional_files=[graph["data"]] if graph["data"] else [],
        output_name="token_embeddings",
    )
    model: Any = TextEmbedding(
        "local/model",
        cache_dir=str(folder),  # nothing goes there; without it a folder for downloads is made
        providers=["CPUExecutionProvider"],
        specific_model_path=str(folder),
    )
    return Loaded(lambda texts: np.asarray(list(model.embed(texts, batch_size=batch_size)), np.float32))


def light_embed(files: Files, batch_size: int) -> Loaded:
    """light-embed with a local folder."""
    from light_embed import TextEmbedding

    # A local folder needs a config; its catalogue has entries like this one.
    config = {
        "onnx_file": files.graph["file"],
        "pooling_config_path": "1_Pooling",
        "normalize": files.route["outputs"]["sentence_embedding"]["normalized"],
    }
    model: Any = TextEmbedding(str(files.prepared / "limited"), device="cpu", model_config=config)
    return Loaded(lambda texts: np.asarray(model.encode(texts, batch_size=batch_size), np.float32))


def candding(files: Files) -> Loaded:
    """Candding reads models of its catalogue from the hub's cache."""
    os.environ["HF_HOME"] = str(files.prepared / "hub")
    os.environ.pop("HF_HUB_CACHE", None)
    import candding as engine

    model: Any = engine.TextEmbedding(HUB_ID, device="cpu", batch_size=1)
    return Loaded(lambda texts: np.asarray(model.embed(texts), np.float32))


def llama_cpp(files: Files, kind: str) -> Loaded:
    """llama.cpp with a GGUF file made of the weights."""
    from llama_cpp import Llama

    limit = files.route["max_seq_length"]
    tokenizer = _tokenizer(files)
    tokenizer.no_truncation()
    cores = _cores()
    tokens = max(limit, _LLAMA_TOKENS)
    model: Any = Llama(
        str(files.prepared / f"gguf-{kind}"),
        embedding=True,
        n_ctx=tokens,
        n_batch=tokens,
        n_ubatch=tokens,
        n_threads=cores,
        n_threads_batch=cores,
        verbose=False,
    )

    def cut(text: str) -> str:
        """Truncate before the engine does: its own truncation loses the final special token."""
        encoded = tokenizer.encode(text)
        return text if len(encoded.ids) <= limit else text[: encoded.offsets[limit - 2][1]]

    return Loaded(lambda texts: np.asarray(model.embed([cut(text) for text in texts], normalize=True), np.float32))


def model2vec(files: Files) -> Loaded:
    """A static model, distilled from this one."""
    from model2vec import StaticModel

    model: Any = StaticModel.from_pretrained(files.prepared / "static")
    return Loaded(lambda texts: np.asarray(model.encode(texts), np.float32))


def _tokenizer(files: Files) -> Any:
    from tokenizers import Tokenizer

    route = files.route
    tokenizer = Tokenizer.from_file(str(files.bundle / route["tokenizer"]))
    tokenizer.no_padding()
    if route["max_seq_length"] is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(route["max_seq_length"])
    return tokenizer


def _pooling(files: Files) -> str:
    """The pooling mode of a model that has a single one."""
    (mode,) = next(module for module in files.route["modules"] if module["type"] == "Pooling")["settings"][
        "pooling_mode"
    ]
    found: str = mode
    return found


def _batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Rows of near-equal length, longest first, at most so many tokens with their padding."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if rows and (len(rows) + 1) * lengths[rows[0]] > budget:
            yield rows
            rows = []
        rows.append(row)
    yield rows


def _padding(files: Files) -> Callable[[list[list[int]]], dict[str, NDArray[np.int64]]]:
    """Token ids to the inputs of the bundle's graph."""
    tokenization = files.route["tokenization"]

    def padded(tokens: list[list[int]]) -> dict[str, NDArray[np.int64]]:
        ids = np.full((len(tokens), max(map(len, tokens))), tokenization["pad_id"], np.int64)
        mask = np.zeros_like(ids)
        for row, some in enumerate(tokens):
            at = slice(len(some)) if tokenization["padding_side"] == "right" else slice(ids.shape[1] - len(some), None)
            ids[row, at] = some
            mask[row, at] = 1
        types = {"token_type_ids": np.zeros_like(ids)} if tokenization["token_type_ids"] else {}
        return {"input_ids": ids, "attention_mask": mask, **types}

    return padded


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
