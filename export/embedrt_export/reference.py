"""The vectors that a fresh bundle is compared with, by the best reference that this environment has."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.reference import ReferenceEvaluator
from tqdm.auto import tqdm

from embedrt.bundle import Manifest
from embedrt.errors import ExportError
from embedrt.runner import Runner, Vectors

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Reference:
    """Reference vectors.

    Attributes:
        name: What made them, with versions.
        independent: Whether it shares nothing with the graph that is judged.
        vectors: float32 `[texts, dim]`.
    """

    name: str
    independent: bool
    vectors: Vectors


def find_reference(folder: Path, manifest: Manifest, runner: Runner, task: str | None, texts: list[str]) -> Reference:
    """Takes sentence-transformers where it is installed, else golden vectors of this very model, else onnx's evaluator.

    Args:
        folder: The model folder.
        manifest: Of the bundle that will be judged.
        runner: The route that will be judged; only its tokenizer and its graph file are used here.
        task: A task that takes this route.
        texts: The texts.

    Raises:
        ExportError: sentence-transformers is installed and fails on the model; another reference in its place would
            prove less than was to be expected here.
    """
    if find_spec("sentence_transformers") is not None:
        try:
            return _sentence_transformers(folder, task, texts, runner.route.max_seq_length)
        except Exception as error:
            raise ExportError(
                f"sentence-transformers is installed here, so it is the reference, but fails on this model: {error}; "
                "mend that installation, or export in an environment without it"
            ) from error
    golden = GOLDEN / f"{manifest.fingerprint}.npy"
    if golden.is_file():
        made = json.loads(golden.with_suffix(".json").read_bytes())
        if made["texts_sha256"] == digest(texts):
            return Reference(f"golden vectors of {made['made_with']}", True, np.load(golden, allow_pickle=False))
    return _onnx_evaluator(runner, texts)


def digest(texts: Sequence[str]) -> str:
    """SHA-256 over a list of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _sentence_transformers(folder: Path, task: str | None, texts: list[str], limit: int | None) -> Reference:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"})
    made_with = ", ".join(f"{name} {version(name)}" for name in ("sentence-transformers", "transformers", "torch"))

    def encode() -> Vectors:
        vectors = model.encode(texts, prompt="", show_progress_bar=False, convert_to_numpy=True, task=task or None)
        return np.asarray(vectors, np.float32)

    try:
        vectors = encode()
    except (IndexError, RuntimeError):
        own = model.max_seq_length
        if limit is None or (own is not None and own <= limit):
            raise
        model.max_seq_length = limit  # it fails on texts that are longer than the positions which the model has
        vectors = encode()
    return Reference(f"{made_with}, float32 on cpu", True, vectors)


def _onnx_evaluator(runner: Runner, texts: list[str]) -> Reference:
    """Each text alone through onnx's own evaluator, whose operators are written in numpy."""
    graph = next(iter(runner.route.graphs.values()))
    path = runner.folder / graph.file
    model = onnx.load(path, load_external_data=False)
    weights = mapped_weights(model, path.parent)
    evaluator = ReferenceEvaluator(model)
    name = f"the same graph in onnx.reference {onnx.__version__}"
    vectors: list[Vectors] = []
    for text in tqdm(texts, desc=f"Computing {name}", unit="text", disable=None):
        (vector,) = cast("list[Vectors]", evaluator.run(["sentence_embedding"], {**weights, **runner.feeds(text)}))
        vectors.append(vector)
    return Reference(name, False, np.concatenate(vectors))


def mapped_weights(model: onnx.ModelProto, folder: Path) -> dict[str, NDArray[Any]]:
    """Turns the weights in data files into inputs, and returns what to feed there: views of the mapped files."""
    graph = model.graph
    outside = [tensor for tensor in graph.initializer if uses_external_data(tensor)]
    weights: dict[str, NDArray[Any]] = {}
    for tensor in outside:
        place = ExternalDataInfo(tensor)
        stored = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
        mapped = np.memmap(folder / place.location, stored, "r", place.offset or 0, tuple(tensor.dims))
        weights[tensor.name] = np.asarray(mapped)
        graph.initializer.remove(tensor)
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return weights
