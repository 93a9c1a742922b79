"""The engines that are compared, as data. Each is used as its own documentation shows, with its own defaults.

All compute with the same weights. sentence-transformers reads the model folder; the others read the bundle, whose ONNX
file is a plain graph in fp32. The peers pool and normalize in numpy, as they do for this model in their own catalogues.
Each reads its limit of tokens from the file where it always looks for it; those files disagree, see `settings`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        distribution: The package that pip installs.
        settings: What a reader must know to judge the numbers.
        load: From the model folder and the bundle to a function that encodes. Imports happen inside, so that a process
            pays only for the engine that it runs.
    """

    distribution: str
    settings: str
    load: Callable[[Path, Path], Encode]

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


def _sentence_transformers(model: Path, bundle: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    # The type is named because recent releases take it from the files, and fp32 is what the others compute in.
    loaded: Any = SentenceTransformer(
        str(model), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
    )
    return lambda texts: np.asarray(loaded.encode(texts, show_progress_bar=False), np.float32)


def _embedrt(model: Path, bundle: Path) -> Encode:
    from embedrt import Embedder

    return Embedder(bundle, device="cpu").encode


def _fastembed(batch_size: int) -> Callable[[Path, Path], Encode]:
    def load(model: Path, bundle: Path) -> Encode:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        # Its catalogue names a file on the hub. A custom model is the public way to a local one; the source is required
        # and, with a local path, never asked. Mean pooling of token embeddings is what its own entry does.
        TextEmbedding.add_custom_model(
            model="local/all-MiniLM-L6-v2",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="sentence-transformers/all-MiniLM-L6-v2"),
            dim=384,
            model_file="onnx/model.onnx",
            additional_files=["onnx/model.onnx.data"],
            output_name="token_embeddings",
        )
        loaded: Any = TextEmbedding(
            "local/all-MiniLM-L6-v2",
            cache_dir=str(bundle),  # nothing goes there; without it a folder for downloads is made
            providers=["CPUExecutionProvider"],
            specific_model_path=str(bundle),
        )
        return lambda texts: np.asarray(list(loaded.embed(texts, batch_size=batch_size)), np.float32)

    return load


def _light_embed(model: Path, bundle: Path) -> Encode:
    from light_embed import TextEmbedding

    # A local folder needs a config; this is the entry that its catalogue has for this model.
    config = {"onnx_file": "onnx/model.onnx", "pooling_config_path": "1_Pooling", "normalize": True}
    loaded: Any = TextEmbedding(str(bundle), device="cpu", model_config=config)
    return lambda texts: np.asarray(loaded.encode(texts), np.float32)


REFERENCE = "sentence-transformers"

ENGINES: dict[str, Engine] = {
    REFERENCE: Engine(
        "sentence-transformers",
        "torch fp32, batch size 32 (default); cuts at 256 tokens (sentence_bert_config.json)",
        _sentence_transformers,
    ),
    "embedrt": Engine(
        "embedrt",
        "fp32, batch size 32 (default), planned by tokens; cuts at 256 tokens (embedrt.json, as the reference)",
        _embedrt,
    ),
    "fastembed": Engine(
        "fastembed",
        "batch size 256 (default); cuts at 512 tokens (tokenizer_config.json)",
        _fastembed(256),
    ),
    "fastembed-32": Engine(
        "fastembed",
        "batch size 32, for comparison; cuts at 512 tokens (tokenizer_config.json)",
        _fastembed(32),
    ),
    "light-embed": Engine(
        "light-embed",
        "batch size 32 (default); cuts at 512 tokens (tokenizer_config.json)",
        _light_embed,
    ),
}
