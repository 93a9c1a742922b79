"""The vectors that a fresh bundle is compared with, by the best reference that this environment has."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from tqdm.auto import tqdm

from embedrt.bundle import Manifest
from embedrt.errors import ExportError
from embedrt.runner import Runner, Vectors
from embedrt.session import onnxruntime

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
    """Takes sentence-transformers where it is installed, else golden vectors of this very model, else the same graph.

    That is computed by onnx's evaluator, or by ONNX Runtime in the plainest way if only that has the operators.

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
            return _sentence_transformers(folder, task, texts)
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
    if any(graph.flavour != "portable" for graph in runner.route.graphs.values()):
        return _plain_session(runner, texts)
    return _onnx_evaluator(runner, texts)


def digest(texts: Sequence[str]) -> str:
    """SHA-256 over a list of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _sentence_transformers(folder: Path, task: str | None, texts: list[str]) -> Reference:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"})
    made_with = ", ".join(f"{name} {version(name)}" for name in ("sentence-transformers", "transformers", "torch"))
    vectors = model.encode(texts, prompt="", show_progress_bar=False, convert_to_numpy=True, task=task or None)
    return Reference(f"{made_with}, float32 on cpu", True, np.asarray(vectors, np.float32))


def _plain_session(runner: Runner, texts: list[str]) -> Reference:
    """Each text alone through ONNX Runtime as it computes without rewriting the graph: for its own operators."""
    ort, graph = onnxruntime(), next(iter(runner.route.graphs.values()))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(runner.folder / graph.file, options, providers=["CPUExecutionProvider"])
    vectors = [session.run(["sentence_embedding"], runner.feeds(text))[0] for text in texts]
    name = f"the same graph in onnxruntime {ort.__version__} without optimizations"
    return Reference(name, False, np.concatenate(vectors))


def _onnx_evaluator(runner: Runner, texts: list[str]) -> Reference:
    """Each text alone through onnx's own evaluator, whose operators are written in numpy."""
    graph = next(iter(runner.route.graphs.values()))
    evaluator = ReferenceEvaluator(onnx.load(runner.folder / graph.file))
    name = f"the same graph in onnx.reference {onnx.__version__}"
    vectors: list[Vectors] = []
    with np.errstate(all="ignore"):  # graphs of others compute infinities that they then leave out
        for text in tqdm(texts, desc=f"Computing {name}", unit="text", disable=None):
            (vector,) = cast("list[Vectors]", evaluator.run(["sentence_embedding"], runner.feeds(text)))
            vectors.append(vector)
    return Reference(name, False, np.concatenate(vectors))
