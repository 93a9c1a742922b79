"""Sparse static embeddings: a weight for every token of the vocabulary that a text has, without a transformer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import ExportError
from embedrt.types import SPARSE
from embedrt_export.graph.builder import FLOAT, GraphBuilder
from embedrt_export.graph.data_file import identity_of
from embedrt_export.heads.head import Feature
from embedrt_export.layers.inputs import text_inputs
from embedrt_export.routes.encoder import Encoder
from embedrt_export.source.configs import read_config, strict
from embedrt_export.source.weights import INDEX, SINGLE, Weights
from embedrt_export.tokenizer import BuiltTokenizer, build_tokenizer, parsed, without_special_tokens

ARCHITECTURE = "sparse-static"
"""The name in the manifest."""
# The class of the tokenizer where its config names none: this module is used with BERT's vocabulary.
_TOKENIZER = "bert"
_IDF = "idf.json"
_MOST_ROWS = 1 << 24


@dataclass(frozen=True)
class SparseStaticEmbedding:
    """Settings of the module. `path` names a JSON file of weights by token; null takes the tensor "weight"."""

    frozen: bool = False
    path: str | None = None


def read(folder: Path) -> SparseStaticEmbedding:
    """Read the module's config, which is optional."""
    file = folder / "config.json"
    return (
        strict(SparseStaticEmbedding, read_config(file), f"{folder.name}/config.json")
        if file.is_file()
        else (SparseStaticEmbedding())
    )


def build(graph: GraphBuilder, folder: Path, settings: SparseStaticEmbedding) -> Encoder:
    """Add the module to a graph: the weights of the tokens that a text has, however often it has them.

    Args:
        graph: The graph.
        folder: The module's folder.
        settings: Its settings.

    Raises:
        UnsupportedModelError: The tokenizer is not supported.
        ExportError: A file is missing or damaged.
    """
    with_weights = (folder / SINGLE).is_file() or (folder / INDEX).is_file()
    if settings.path is None and (with_weights or not (folder / _IDF).is_file()):
        with Weights(folder) as weights:
            values = weights("weight", *weights.shape("weight"))
            digest = weights.digest()
        if values.ndim != 1 or not values.size:
            raise ExportError(f"weights: tensor 'weight' has shape {values.shape}; expected one number for every token")
        tokenizer = _tokenizer(folder, len(values))
    else:
        tokenizer = _tokenizer(folder, _MOST_ROWS)
        values = _weights_by_token(_json_file(folder, settings.path), tokenizer)
        tokenizer = _tokenizer(folder, len(values))
        digest = ""
    inputs = text_inputs(graph, token_type_ids=False)
    batch = graph.op("Shape", inputs.input_ids, end=1)
    none = graph.op("Expand", graph.scalar(0.0), graph.op("Concat", batch, graph.ints(len(values)), axis=0))
    counts = graph.op("Cast", inputs.attention_mask, to=FLOAT)
    present = graph.op("ScatterElements", none, inputs.input_ids, counts, axis=1, reduction="max")
    sparse = graph.op("Mul", present, graph.weight("weight", values))
    return Encoder(
        architecture=ARCHITECTURE,
        via="native",
        identity={"model_type": ARCHITECTURE},
        features={SPARSE: Feature(sparse, len(values), per_token=False)},
        states=[],
        inputs=inputs,
        tokenizer=tokenizer,
        max_seq_length=tokenizer.model_max_length,
        position_limit=None,
        digests=[digest or identity_of(values).hex()],
    )


def _tokenizer(folder: Path, rows: int) -> BuiltTokenizer:
    return without_special_tokens(build_tokenizer(folder, _TOKENIZER, rows, do_lower_case=False))


def _json_file(folder: Path, path: str | None) -> Path:
    """The file of weights by token, in the module's folder or beside it."""
    name = Path(path or _IDF).name
    for place in (folder / name, folder.parent / name):
        if place.is_file():
            return place
    raise ExportError(
        f"{folder.name}/config.json: path {str(path)[:80]!r}: expected {name} in the folder of the module or of the "
        "model; copy it there"
    )


def _weights_by_token(file: Path, tokenizer: BuiltTokenizer) -> NDArray[np.float32]:
    """Weights `[vocabulary]` from a JSON object of weights by token; a token that is not there has 0."""
    content: dict[str, Any] = read_config(file)
    library = parsed(tokenizer)
    weights = np.zeros(library.get_vocab_size(with_added_tokens=True), np.float32)
    for token, weight in content.items():
        row = library.token_to_id(token)
        if type(weight) not in {int, float} or not np.isfinite(np.float32(weight)):
            raise ExportError(f"{file.name}: {token[:40]!r}: expected a finite number, got {str(weight)[:40]}")
        if row is None or row >= len(weights):
            raise ExportError(f"{file.name}: {token[:40]!r} is not a token of the vocabulary; get the model again")
        weights[row] = weight
    return weights
