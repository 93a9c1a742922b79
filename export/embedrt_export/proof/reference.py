"""Reference vectors for a new bundle, from the best reference available in this environment."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.reference import ReferenceEvaluator
from tqdm.auto import tqdm

from embedrt.bundle.manifest import Manifest
from embedrt.bundle.reports import ParityReport
from embedrt.compat import is_active
from embedrt.engine.session import onnxruntime, plain_session
from embedrt.errors import ExportError
from embedrt.model import Model
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_tokens, output_of, width_of
from embedrt.types import Task, Vectors
from embedrt.verify.parity import Item, bound_of, compare, read_parity_items, stacked
from embedrt_export.source.locate import model_folder

ReferenceKind = Literal["auto", "sentence-transformers", "golden", "onnx"]
GOLDEN = Path(__file__).parent / "golden"

logger = logging.getLogger("embedrt")


@dataclass(frozen=True)
class Reference:
    """Reference vectors.

    Attributes:
        name: Their source, with versions.
        independent: True if the source shares nothing with the graph under test.
        vectors: float32 `[texts, n]`.
    """

    name: str
    independent: bool
    vectors: Vectors


@dataclass(frozen=True)
class Subject:
    """One route to verify.

    Attributes:
        folder: The model folder.
        manifest: The bundle's manifest.
        runner: The route; a reference uses only its tokenizer and its graph file.
        task: A task that uses the route.
        texts: The parity texts, or pairs.
        is_native: True if sentence-transformers runs the model without code from its repo, which is never run.
    """

    folder: Path
    manifest: Manifest
    runner: Runner
    task: str | None
    texts: Sequence[Item]
    is_native: bool


def find_reference(kind: ReferenceKind, subject: Subject) -> Reference:
    """Compute or load reference vectors; "auto" is the first reference available, in the order of `ReferenceKind`.

    Raises:
        ExportError: The reference is not available, or sentence-transformers is installed but fails on the model: a
            weaker reference must not replace it silently.
    """
    manifest, runner, texts = subject.manifest, subject.runner, subject.texts
    installed = find_spec("sentence_transformers") is not None and not _is_stand_in()
    if kind == "sentence-transformers" or (kind == "auto" and installed and subject.is_native):
        return _sentence_transformers(subject)
    if kind in {"auto", "golden"} and (golden := _golden(manifest.fingerprint, texts)) is not None:
        return golden
    if kind == "golden":
        raise ExportError(f"no golden vectors for the fingerprint {manifest.fingerprint}; choose another reference")
    if runner.placement.variant.operators != "portable":
        return _plain_session(runner, texts)  # onnx's evaluator only has standard operators
    return _onnx_evaluator(runner, texts)


def verify_with_sentence_transformers(model: Model, source: str | Path | None) -> dict[str, ParityReport]:
    """Compare a bundle with sentence-transformers on the original model, over the bundle's parity texts.

    Args:
        model: The bundle.
        source: The original model, as in `export`; None uses the source in the manifest.

    Returns:
        A report for each route.

    Raises:
        ParityError: A vector exceeds the tolerance of the export.
        ModelNotFoundError: The model cannot be found; bundles do not store local paths.
        ExportError: sentence-transformers fails on the model.
    """
    manifest = model.manifest
    folder = model_folder(manifest.source if source is None else source)
    reports = {}
    for name, loaded in model.runners.items():
        runner = loaded.with_max_seq_length(loaded.route.parity_max_seq_length)
        texts = read_parity_items(runner.files, runner.route, runner.task)
        subject = Subject(folder, manifest, runner, manifest.task_of(name), texts, is_native=True)
        reference = _sentence_transformers(subject)
        bound = bound_of(runner.placement.variant, runner.placement.dtype)
        reports[name] = compare(
            runner,
            texts,
            reference.vectors,
            reference.name,
            independent=True,
            tolerance=bound.tolerance,
            min_cosine=bound.min_cosine,
        )
    return reports


def _golden(fingerprint: str, texts: Sequence[Item]) -> Reference | None:
    golden = GOLDEN / f"{fingerprint}.npy"
    if not golden.is_file():
        return None
    made = json.loads(golden.with_suffix(".json").read_bytes())
    if made["texts_sha256"] != digest(texts):
        return None
    return Reference(f"golden vectors of {made['made_with']}", True, np.load(golden, allow_pickle=False))


def digest(texts: Sequence[Item]) -> str:
    """SHA-256 over a list of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _is_stand_in() -> bool:
    """Return True if the module of that name is embedrt's own; a log line has it if it hides the package."""
    if not is_active():
        return False
    try:
        hidden = version("sentence-transformers")
    except PackageNotFoundError:
        return True
    logger.warning(
        "sentence-transformers %s is installed, but embedrt.compat takes its place in this process, so that it is not "
        "the reference; export in another process for that",
        hidden,
    )
    return True


def _sentence_transformers(subject: Subject) -> Reference:
    if find_spec("sentence_transformers") is None:
        raise ExportError("sentence-transformers is not installed; run `pip install sentence-transformers`")
    if is_active():
        raise ExportError(
            "expected sentence-transformers as the reference, got the module of embedrt.compat, which takes its place "
            "in this process; run the export without `python -m embedrt.compat` and EMBEDRT_AS_SENTENCE_TRANSFORMERS"
        )
    try:
        vectors = _COMPUTED[subject.manifest.task](subject)
    except Exception as error:
        raise ExportError(
            f"sentence-transformers is installed, so it is the reference, but it fails on this model: {error}; "
            "repair the installation, or choose another reference (`--reference onnx`)"
        ) from error
    made_with = ", ".join(f"{name} {version(name)}" for name in ("sentence-transformers", "transformers", "torch"))
    return Reference(f"{made_with}, float32 on cpu", True, np.asarray(vectors, np.float32))


def _sentence_embeddings(subject: Subject) -> Vectors:
    """Sentence embeddings by `SentenceTransformer`."""
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"local_files_only": True, "model_kwargs": {"dtype": "float32"}}
    model = SentenceTransformer(str(subject.folder), device="cpu", **options)
    model.truncate_dim = None  # the graph returns all dimensions
    limit, own = subject.runner.route.max_seq_length, model.max_seq_length
    if len(subject.manifest.routes) == 1 and limit is not None and own is not None and own > limit:
        model.max_seq_length = limit  # it fails on texts with more tokens than positions
    vectors: Vectors = model.encode(
        list(subject.texts), prompt="", show_progress_bar=False, convert_to_numpy=True, task=subject.task or None
    )
    return vectors


def _scores(subject: Subject) -> Vectors:
    """Logits by `CrossEncoder`, before its activation function."""
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity  # noqa: TID251 - where sentence-transformers is, torch is too

    options: dict[str, Any] = {"local_files_only": True, "model_kwargs": {"dtype": "float32"}}
    model = CrossEncoder(str(subject.folder), device="cpu", **options)
    model.prompts, model.default_prompt_name = {}, None
    limit, own = subject.runner.route.max_seq_length, model.max_seq_length
    if limit is not None and own is not None and own > limit:
        model.max_seq_length = limit  # it fails on pairs with more tokens than positions
    pairs = list(subject.texts)
    # Alone, as the logits of some architectures depend on the padding of a batch.
    rows = [model.predict(pair, activation_fn=Identity(), show_progress_bar=False) for pair in pairs]
    return np.asarray(rows, np.float32).reshape(len(pairs), -1)


def _token_vectors(subject: Subject) -> Vectors:
    """The vectors of all tokens by `MultiVectorEncoder`, whether they count or not."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling, MultiVectorMask

    options: dict[str, Any] = {"local_files_only": True, "model_kwargs": {"dtype": "float32"}}
    model = MultiVectorEncoder(str(subject.folder), device="cpu", **options)
    for module in model:
        if isinstance(module, MultiVectorMask):
            module.skiplist_tasks, module.keep_only_token_ids = [], None
        elif isinstance(module, BaseTokenPooling):
            module.tasks = []
    limit, own = subject.runner.route.max_seq_length, model.max_seq_length
    if limit is not None and own is not None and own > limit:
        model.max_seq_length = limit  # it fails on texts with more tokens than positions
    arrays = model.encode(list(subject.texts), prompt="", show_progress_bar=False, convert_to_numpy=True)
    rows = [array.reshape(-1) for array in arrays]
    return stacked(rows, max(map(len, rows)))


def _sparse_embeddings(subject: Subject) -> Vectors:
    """Weights of the whole vocabulary by `SparseEncoder`."""
    from sentence_transformers import SparseEncoder

    options: dict[str, Any] = {"local_files_only": True, "model_kwargs": {"dtype": "float32"}}
    model = SparseEncoder(str(subject.folder), device="cpu", **options)
    model.max_active_dims = None  # the graph returns all weights
    limit, own = subject.runner.route.max_seq_length, model.max_seq_length
    if len(subject.manifest.routes) == 1 and limit is not None and own is not None and own > limit:
        model.max_seq_length = limit  # it fails on texts with more tokens than positions
    width = width_of(subject.runner)
    vectors: Vectors = model.encode(
        list(subject.texts),
        prompt="",
        show_progress_bar=False,
        convert_to_sparse_tensor=False,
        max_active_dims=width,
        task=subject.task or None,
    ).numpy()
    return vectors


_COMPUTED: dict[Task, Callable[[Subject], Vectors]] = {
    "embed": _sentence_embeddings,
    "score": _scores,
    "multi-vector": _token_vectors,
    "sparse": _sparse_embeddings,
}
"""The values that sentence-transformers computes for a model of each task, as those of `graph_values`."""


def _plain_session(runner: Runner, items: Sequence[Item]) -> Reference:
    """Compute each item alone with ONNX Runtime without graph optimizations, for graphs with its own operators."""
    session = plain_session(runner.folder / runner.placement.variant.file, optimize=False)
    rows = [session.run([output_of(runner)], _inputs(runner, item))[0].reshape(-1) for item in items]
    name = f"the same graph in onnxruntime {onnxruntime().__version__} without optimizations"
    return Reference(name, False, stacked(rows, max(map(len, rows))))


def _onnx_evaluator(runner: Runner, items: Sequence[Item]) -> Reference:
    """Compute each item alone with onnx's reference evaluator, which implements operators in NumPy."""
    path = runner.folder / runner.placement.variant.file
    model = onnx.load(path, load_external_data=False)
    weights = mapped_weights(model, path.parent)
    evaluator = ReferenceEvaluator(model)
    name = f"the same graph in onnx.reference {onnx.__version__}"
    rows: list[Vectors] = []
    with np.errstate(all="ignore"):  # exported graphs may compute infinities that they mask later
        for item in tqdm(items, desc=f"Computing {name}", unit="text", disable=None):
            (values,) = cast("list[Vectors]", evaluator.run([output_of(runner)], {**weights, **_inputs(runner, item)}))
            rows.append(values.reshape(-1))
    return Reference(name, False, stacked(rows, max(map(len, rows))))


def _inputs(runner: Runner, item: Item) -> dict[str, NDArray[np.int64]]:
    return runner.inputs(graph_tokens(runner, [item]))


def mapped_weights(model: onnx.ModelProto, folder: Path) -> dict[str, NDArray[Any]]:
    """Turn the weights in data files into graph inputs; returns their values, mapped from the files."""
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
