"""Sentence embeddings without PyTorch: `embedrt.encode(texts)`, or `embedrt.Embedder(model).encode(texts)`."""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embedrt._version import __version__
from embedrt.bundle.reports import ParityReport, QualityReport, RankReport
from embedrt.embedder import Embedder
from embedrt.errors import (
    BulkError,
    BundleError,
    CompatError,
    DeviceError,
    EmbeddingsError,
    EmbedrtError,
    EngineError,
    ExportError,
    InferenceError,
    MissingDependencyError,
    ModelNotFoundError,
    NonFiniteError,
    OutOfMemory,
    ParityError,
    PoolError,
    QualityError,
    TruncationError,
    TruncationWarning,
    UnsupportedModelError,
    UploadError,
)
from embedrt.model import Model
from embedrt.tune.result import Tuning
from embedrt.types import Task, like
from embedrt.vectors.files import Embeddings, load_embeddings, save_embeddings
from embedrt.vectors.maxsim import maxsim, maxsim_pairwise, mean_maxsim, mean_maxsim_pairwise
from embedrt.vectors.quantization import dequantize_embeddings, quantize_embeddings, vector_ranges
from embedrt.vectors.search import community_detection, paraphrase_mining, paraphrase_mining_embeddings, semantic_search
from embedrt.vectors.similarity import (
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    normalize_embeddings,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    truncate_embeddings,
)
from embedrt.vectors.sparse import SparseVectors

# The functions `tune` and `verify` below share the names of two rooms. Python sets a room's attribute once, when it is
# first imported; so both rooms are imported here, and the functions take the names afterwards.
from embedrt.verify.difference import Difference

if TYPE_CHECKING:
    from embedrt.cross_encoder import CrossEncoder
    from embedrt.multi_vector_encoder import MultiVectorEncoder
    from embedrt.sparse_encoder import SparseEncoder
    from embedrt.vectors.token_pooling import HierarchicalTokenPooling

__all__ = [
    "BulkError",
    "BundleError",
    "CompatError",
    "CrossEncoder",
    "DeviceError",
    "Difference",
    "Embedder",
    "Embeddings",
    "EmbeddingsError",
    "EmbedrtError",
    "EngineError",
    "ExportError",
    "HierarchicalTokenPooling",
    "InferenceError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "MultiVectorEncoder",
    "NonFiniteError",
    "OutOfMemory",
    "ParityError",
    "ParityReport",
    "PoolError",
    "QualityError",
    "QualityReport",
    "RankReport",
    "SparseEncoder",
    "SparseVectors",
    "TruncationError",
    "TruncationWarning",
    "Tuning",
    "UnsupportedModelError",
    "UploadError",
    "__version__",
    "community_detection",
    "cos_sim",
    "default_model",
    "dequantize_embeddings",
    "diff",
    "dot_score",
    "encode",
    "euclidean_sim",
    "export",
    "load_embeddings",
    "manhattan_sim",
    "maxsim",
    "maxsim_pairwise",
    "mean_maxsim",
    "mean_maxsim_pairwise",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "quantize_embeddings",
    "ranges",
    "save_embeddings",
    "semantic_search",
    "truncate_embeddings",
    "tune",
    "vector_ranges",
    "verify",
]

# Imported when a program first names them: most use one class, and start without the others.
_ON_FIRST_USE = {
    "CrossEncoder": "embedrt.cross_encoder",
    "HierarchicalTokenPooling": "embedrt.vectors.token_pooling",
    "MultiVectorEncoder": "embedrt.multi_vector_encoder",
    "SparseEncoder": "embedrt.sparse_encoder",
}

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_loaded: dict[str, Embedder] = {}
_loading = threading.RLock()  # a signal handler may encode meanwhile


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'embedrt' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_ON_FIRST_USE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def default_model() -> str:
    """The model of `embedrt.encode` and of the command line: `EMBEDRT_MODEL`, else all-MiniLM-L6-v2."""
    return os.environ.get("EMBEDRT_MODEL") or DEFAULT_MODEL


def _default() -> Embedder:
    """The default model, loaded at the first call and kept for the life of the process."""
    name = default_model()
    with _loading:
        if name not in _loaded:
            _loaded[name] = Embedder(name)
    return _loaded[name]


@like(Embedder.encode, bound=True)
def encode(*arguments: Any, **options: Any) -> Any:
    """Encode texts with the default model, which is loaded at the first call and kept for the life of the process.

    The arguments, the result and the errors are those of `Embedder.encode`.

    Example:
        >>> embedrt.encode(["The cat sat.", "A dog ran."]).shape
        (2, 384)
    """
    return _default().encode(*arguments, **options)


def export(
    source: str | Path,
    output: str | Path | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    task: Task | None = None,
    adapter: str | None = None,
    dtype: str | Sequence[str] = "float32",
    calibration_texts: str | Path | None = None,
    overwrite: bool = False,
    via: Literal["auto", "native", "onnx", "optimum"] = "auto",
    onnx_file: str | None = None,
    reference: Literal["auto", "sentence-transformers", "golden", "onnx"] = "auto",
) -> Path:
    """Turn a model into a bundle, without torch, and prove that the bundle computes the same vectors.

    The extra `export` must be installed.

    Args:
        source: Hub id, local model folder, or `package:NAME` for an installed Python package that carries a model.
        output: Folder of the bundle; None puts it into the local store under its name.
        name: Name of the bundle; None takes the hub id, or the name of the folder or package.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        task: The kind of model: "embed" makes one vector a text (`Embedder`), "score" scores pairs of texts
            (`CrossEncoder`), "sparse" makes vocabulary weights (`SparseEncoder`), "multi-vector" makes one vector a
            token (`MultiVectorEncoder`). None recognizes it by the model's files.
        adapter: The LoRA adapter to merge, for models that have one for each task; None merges none.
        dtype: Number format of the model, or several: "float32", "int8", `["float32", "int8"]`.
        calibration_texts: File of texts to calibrate int8 with, one a line, UTF-8; None takes embedrt's own texts.
        overwrite: Replace a bundle that is there already.
        via: How the graph is made: "native" builds it from config and safetensors; "onnx" takes an ONNX file of the
            repo and adds the modules after the transformer; "optimum" runs optimum-onnx, with torch, in another
            process; "auto" takes the first that fits.
        onnx_file: Which ONNX file of the repo, such as "onnx/model_O3.onnx"; it must be a float32 model.
        reference: Source of the reference vectors: "sentence-transformers" on this machine, "golden" vectors that
            embedrt has of this very model, or "onnx", the same graph in onnx's own evaluator. "auto" takes the first
            that is available.

    Returns:
        The bundle's folder. It exists whole and proved, or not at all.

    Raises:
        ModelNotFoundError: The source cannot be found.
        UnsupportedModelError: The model uses something that embedrt does not support; the message names it.
        ExportError: A file of the model is missing or damaged.
        ParityError: The bundle's vectors differ from the reference.
        QualityError: The int8 vectors are too far from the float32 vectors.
        BundleError: Something else is where the bundle should go.
        MissingDependencyError: The extra `export` is not installed, or `via="optimum"` and optimum-onnx is not.
        ValueError: Another argument is out of range, or does not fit the others.

    Example:
        >>> folder = embedrt.export("sentence-transformers/all-MiniLM-L6-v2", "bundle")
        >>> embedrt.Embedder(folder).encode("The cat sat.").shape
        (384,)
    """
    from embedrt.hub.resolve import exporter

    folder: Path = exporter().export(
        source,
        output,
        name=name,
        revision=revision,
        token=token,
        task=task,
        adapter=adapter,
        dtype=dtype,
        calibration_texts=calibration_texts,
        overwrite=overwrite,
        via=via,
        onnx_file=onnx_file,
        reference=reference,
    )
    return folder


def verify(
    bundle: str | Path | Model,
    *,
    reference: Literal["bundle", "sentence-transformers"] = "bundle",
    source: str | Path | None = None,
    device: str | Sequence[str] | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> Mapping[str, ParityReport | QualityReport | RankReport]:
    """Check every file of a bundle, and its vectors on this machine against reference vectors.

    Args:
        bundle: Bundle folder, name in the local store, or a loaded model of any class.
        reference: "bundle" compares with the reference vectors in the bundle; "sentence-transformers" loads the model
            that the bundle was made of once more, which needs sentence-transformers and the extra `export`.
        source: That model, as `export` takes it; None takes it from the place where the bundle's came from.
        device: As in `Embedder`.
        dtype: As in `Embedder`.
        threads: As in `Embedder`.

    Returns:
        A report for every route by name; most bundles have one, "default". A `ParityReport` holds the max absolute
        error in a coordinate of vectors of length 1, a `QualityReport` the cosine similarity to float32,
        a `RankReport` the order and the errors of scores.

    Raises:
        ModelNotFoundError: The bundle, or the model for the reference, cannot be found.
        BundleError: A file of the bundle is missing or damaged.
        ParityError: A vector is beyond the tolerance; the message has the worst texts.
        QualityError: The vectors of a lossy dtype are worse here than where the bundle was exported.
        DeviceError: The device is unknown or not available.
        MissingDependencyError: The reference needs the extra `export`, which is not installed.
        ValueError: Another argument is out of range, or does not fit the others.

    Example:
        >>> embedrt.verify("bundle")["default"].max_abs_error < 1e-5
        True
    """
    from embedrt.verify import bundle as bundles

    bundles.check_reference(reference, source)
    if isinstance(bundle, Model):
        if any(option is not None for option in (device, dtype, threads)):
            raise ValueError("device, dtype, threads: a loaded model has its own; leave them out")
        return bundles.verify(bundle, reference, source)
    model = Model(bundle, device, dtype=dtype, threads=threads, local_files_only=True)
    return bundles.verify(model, reference, source)


def diff(
    a: str | Path | Embedder,
    b: str | Path | Embedder,
    texts: Iterable[str] | None = None,
    *,
    task: str | None = None,
) -> Difference:
    """Compare the vectors of two bundles, dtypes or devices, and the results of a search with them.

    Args:
        a: Bundle folder, name in the local store, or a loaded `Embedder`, with any device and dtype.
        b: Another one, or the same with another device or dtype.
        texts: At least two texts; None takes those of the proof in `a`. They are encoded without a prompt, with all
            coordinates.
        task: Kind of the texts, such as "query" or "document", for models that treat these differently.

    Returns:
        Arrays with one entry for each text: cosine similarity, max absolute error in a coordinate, difference of the
        norms, and the overlap of the first ten search results.

    Raises:
        ModelNotFoundError: A name leads to no bundle here.
        BundleError: A bundle is damaged.
        ValueError: The vectors have different dimensions, there are fewer than two texts, or the task is unknown.

    Example:
        >>> embedrt.diff("before", "after").cosine.min() > 0.999
        True
    """
    from embedrt.verify import bundle as bundles

    items = None if texts is None else bundles.check_diff_texts(texts)
    return bundles.diff(_open(a), _open(b), items, task)


def _open(bundle: str | Path | Embedder) -> Embedder:
    """A bundle of this machine, loaded."""
    return bundle if isinstance(bundle, Embedder) else Embedder(bundle, local_files_only=True)


def ranges(
    bundle: str | Path,
    texts: Iterable[str],
    prompt_name: str | None = None,
    *,
    task: str | None = None,
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    gpu_mem_limit: int | str | None = None,
    show_progress_bar: bool | None = None,
) -> Path:
    """Measure the range of every coordinate of the vectors over texts, and keep the ranges in the bundle.

    `encode(..., precision="int8")` and "uint8" use them, so that these vectors do not depend on the call. The vectors
    are those of `Embedder.encode` with all coordinates. Nothing else in the bundle changes, its fingerprint included;
    ranges that it has are replaced.

    Args:
        bundle: Bundle folder, or name in the local store.
        texts: At least 100 texts like those to encode later, better thousands.
        prompt_name: As in `Embedder.encode`.
        task: As in `Embedder.encode`.
        device: As in `Embedder`.
        threads: As in `Embedder`.
        gpu_mem_limit: As in `Embedder`.
        show_progress_bar: As in `Embedder.encode`.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: Too few texts, or an unknown prompt name or task.
        ModelNotFoundError: The name leads to no bundle here.
        BundleError: The bundle is damaged, or was changed meanwhile.

    Example:
        >>> embedrt.ranges("bundle", texts)
        PosixPath('bundle')
        >>> embedrt.Embedder("bundle").encode("The cat sat.", precision="int8").dtype
        dtype('int8')
    """
    from embedrt.tune.ranges import ranges as measure

    return measure(
        bundle,
        texts,
        prompt_name,
        task=task,
        device=device,
        threads=threads,
        gpu_mem_limit=gpu_mem_limit,
        show_progress_bar=show_progress_bar,
    )


def tune(
    bundle: str | Path,
    texts: Iterable[str] | None = None,
    *,
    seconds: float = 60.0,
    show_progress_bar: bool | None = None,
) -> Tuning:
    """Measure the fastest settings on this machine, and keep them with the bundle in `embedrt.tuned.json`.

    From then on `Embedder` takes device, threads and token budget from there where its arguments leave them open, as
    long as CPU, software and bundle stay the same. Tuning never changes results: the dtype stays float32 unless you
    choose another one, or "auto".

    Args:
        bundle: Bundle folder, or name in the local store.
        texts: At least 20 texts like those to encode later. None takes those of the bundle's proof, and random ones of
            mixed lengths made of their words.
        seconds: Time to spend, roughly. A large model on many devices may take longer.
        show_progress_bar: None shows a bar where the logger "embedrt" is at level INFO or below.

    Returns:
        The measurements, as they are stored.

    Raises:
        ValueError: Too few texts, or no time.
        ModelNotFoundError: The name leads to no bundle here.
        BundleError: The bundle is damaged, or its folder cannot be written.
        ParityError: The float32 vectors are wrong on every device.

    Example:
        >>> embedrt.tune("bundle", texts).device_for("float32")
        'cpu'
    """
    from embedrt.tune.search import tune as search

    return search(bundle, texts, seconds=seconds, show_progress_bar=show_progress_bar)
