"""Files of texts and vectors, with the name and fingerprint of the model. Nothing is ever pickled."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedrt.bundle.atomic import replace_files
from embedrt.bundle.disk import explained
from embedrt.bundle.staging import staging
from embedrt.bundle.strict_json import LFS_POINTER, decode, parse_json
from embedrt.errors import OWN, EmbeddingsError, EmbedrtError, MissingDependencyError, is_raised_by
from embedrt.inputs.check import check_texts
from embedrt.vectors.arrays import as_array
from embedrt.vectors.maxsim import as_items
from embedrt.vectors.sparse import SparseVectors

FORMAT_VERSION = 1
DTYPES = ("float32", "float16", "int8", "uint8")
"""The dtypes of vectors in files; int8 and uint8 also hold packed "binary" and "ubinary" vectors."""

_KEY = "embedrt"  # of the record in the metadata of safetensors and Parquet files
_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
_READERS = OWN | {"numpy", "pyarrow", "safetensors", "safetensors_rust"}
_BLOCK_BYTES = 1 << 25  # of a Parquet row group, and of the rows that are checked at a time

_SPARSE = ".safetensors"  # the ending of files of sparse vectors
_SPARSE_TENSORS = ("indices", "values", "indptr", "width")

Matrix = NDArray[Any]


class Model(Protocol):
    """A model that made vectors: an `Embedder`, or any object with a name and a fingerprint."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Embeddings:
    """Texts and their vectors.

    Attributes:
        texts: The texts.
        vectors: `[texts, dim]`, in the saved dtype; multi-vector embeddings are a list of `[vectors, dim]`, and sparse
            ones `SparseVectors`.
        model: The name of the model that made the vectors, if it was recorded.
        fingerprint: That model's fingerprint, if it was recorded.
    """

    texts: list[str]
    vectors: Any
    model: str | None
    fingerprint: str | None


@dataclass(frozen=True)
class _Record:
    """Metadata of a file, stored as JSON.

    Attributes:
        format_version: Version of the format.
        model: See `Embeddings`.
        fingerprint: See `Embeddings`.
        sha256: SHA-256 of the `.npy` file, or of the contents of a `.safetensors`; Parquet has page checksums instead.
    """

    format_version: int
    model: str | None
    fingerprint: str | None
    sha256: str | None = None


@dataclass(frozen=True, eq=False)
class _Content:
    """The content of a file.

    Attributes:
        texts: The texts.
        vectors: One vector per text, or the vectors of all texts one after the other; or one sparse vector per text.
        counts: The number of vectors of each text, int64 `[texts]`; None if each has one.
    """

    texts: list[str]
    vectors: Any
    counts: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class _Format:
    """A file format.

    Attributes:
        write: Function that completes the record and writes new files into a folder, under the name of the target. It
            returns the folders whose files are moved beside the target, one after the other.
        read: Function that returns the content and the record, or None if a foreign file has none; it may raise any
            exception.
    """

    write: Callable[[Path, Path, _Record, _Content], list[Path]]
    read: Callable[[Path], tuple[_Content, _Record | None]]


def save_embeddings(
    path: str | Path, texts: str | Iterable[str], vectors: ArrayLike | SparseVectors, model: Model | None = None
) -> None:
    """Write texts and vectors to a file atomically, replacing an existing one.

    The suffix chooses the format:

    - `.safetensors`: the tensors "vectors", "texts" (all texts in UTF-8, uint8) and "offsets" (int64 `[texts + 1]`,
      the bounds of each text). With multi-vector embeddings also "counts", int64 `[texts]`, the vectors of each text.
      Instead of "vectors", sparse embeddings have "indices", "values", "indptr" and "width", as in `SparseVectors`.
    - `.npy`: the matrix only, readable by `numpy.load`. The texts are in `NAME.npy.json` beside it, with the SHA-256 of
      the matrix, so that a mismatched pair does not load. Only while the pair is replaced, that file also has the texts
      of the old matrix, so that a killed process leaves a pair that loads: the old or the new one.
    - `.parquet`: the columns "text" and "embedding", a fixed-size list; for multi-vector embeddings a list of these.

    Args:
        path: The file.
        texts: The texts.
        vectors: `[texts, dim]`, float32, float16, int8 or uint8, as an array, a tensor or a list of vectors; or
            multi-vector embeddings, a list of `[vectors, dim]`; or `SparseVectors`, in a `.safetensors` file.
        model: The model that made the vectors. Its name and fingerprint are recorded, so that `load_embeddings`
            can check that vectors are comparable.

    Raises:
        EmbeddingsError: The file cannot be written; the message has its size and the system's reason.
        ValueError: The suffix or dtype is unknown, there are not as many texts as vectors, or a number is not finite.
        TypeError: A text is not a str, `vectors` is not numeric, or `model` is not a model.
        MissingDependencyError: The package for this format is not installed.

    Example:
        >>> save_embeddings("docs.safetensors", texts, model.encode(texts), model)
    """
    path, kind, (items, _) = Path(path), _format_of(path), check_texts(texts)
    identity = (None, None) if model is None else _identity(model)
    matrix, counts = (vectors.matrix, None) if isinstance(vectors, SparseVectors) else _flat(vectors)
    _check(content := _Content(items, matrix, counts))
    if isinstance(matrix, SparseVectors):
        if path.suffix != _SPARSE:
            raise ValueError(f"path: expected the suffix {_SPARSE} for sparse vectors, got {path.suffix!r}")
    else:
        content = replace(content, vectors=np.ascontiguousarray(matrix, matrix.dtype.newbyteorder("=")))
    tensors = _vector_tensors(content.vectors).values()
    size = sum(tensor.nbytes for tensor in tensors) + sum(len(text.encode()) for text in items)
    with explained(path, size, EmbeddingsError), staging(path) as fresh:
        for folder in kind.write(fresh, path, _Record(FORMAT_VERSION, *identity), content):
            replace_files(folder, path.parent)


def _flat(vectors: ArrayLike) -> tuple[Matrix, NDArray[np.int64] | None]:
    """The vectors in one matrix, and the number of vectors of each text if there are several."""
    if not isinstance(vectors, list | tuple) or not vectors or np.ndim(vectors[0]) != 2:
        return as_array(vectors, "vectors"), None
    several = as_items(vectors, "vectors")
    if len(widths := {item.shape[1] for item in several}) > 1:
        raise ValueError(f"vectors: expected vectors of equal width, got {sorted(widths)} coordinates")
    return np.concatenate(several), np.fromiter(map(len, several), np.int64, len(several))


def save_matrix(path: Path, matrix: Matrix) -> None:
    """Write one matrix in NumPy's format.

    A file is replaced atomically, and a link stays a link to it. A pipe, a device and standard output are written
    directly.

    Raises:
        EmbeddingsError: The file cannot be written; the message has its size and the system's reason.
    """
    with explained(path, matrix.nbytes, EmbeddingsError):
        if is_stream(path):
            with path.open("wb") as file:
                write_matrix(file, matrix)
            return
        target = Path(os.path.realpath(path))
        with staging(target) as fresh:
            with (fresh / target.name).open("wb") as file:
                write_matrix(file, matrix)
            replace_files(fresh, target.parent)


def is_stream(path: Path) -> bool:
    """Return True if a path is written from its start to its end, not replaced: a pipe, a device, standard output."""
    return str(path).startswith(_STREAMS) or (path.exists() and not path.is_file())


def write_matrix(file: BinaryIO, matrix: Matrix) -> None:
    """Write what `numpy.save` does; its own way through the C library loses the reason of a failure, and needs a file.

    Args:
        file: The open file.
        matrix: The matrix.
    """
    rows = np.ascontiguousarray(matrix)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
    file.write(rows.reshape(-1).data)


def load_embeddings(path: str | Path, model: Model | None = None) -> Embeddings:
    """Read a file of `save_embeddings`, or any Parquet file with the columns "text" and "embedding".

    Args:
        path: The file.
        model: The `Embedder` whose vectors will be compared with these; None skips the check.

    Raises:
        EmbeddingsError: The file is damaged or of another format, or another model made its vectors.
        ValueError: The suffix is unknown.
        MissingDependencyError: The package for this format is not installed.
        FileNotFoundError: The file does not exist.

    Example:
        >>> docs = load_embeddings("docs.safetensors", model)
        >>> model.similarity(model.encode_query("a question"), docs.vectors)
    """
    path, kind = Path(path), _format_of(path)
    wanted = None if model is None else _identity(model)
    _check_file(path)
    try:
        content, record = kind.read(path)
        check_texts(content.texts)
        _check(content)
    except EmbedrtError:
        raise
    except Exception as error:  # the libraries raise any exception on damaged files
        if not is_raised_by(_READERS, error):
            raise
        raise EmbeddingsError(
            f"{path}: cannot be read as embeddings: {error}; get the file again, or encode the texts again"
        ) from error
    identity = (record.model, record.fingerprint) if record else (None, None)
    loaded = Embeddings(content.texts, _by_text(content), *identity)
    if wanted is not None:
        _check_comparable(path, loaded, *wanted)
    return loaded


def _by_text(content: _Content) -> Any:
    """The vectors of a file as `Embeddings` has them; those of several vectors per text share one array."""
    if content.counts is None:
        return content.vectors
    ends = np.cumsum(content.counts).tolist()
    return [content.vectors[start:end] for start, end in pairwise([0, *ends])]


def _format_of(path: str | Path) -> _Format:
    suffix = Path(path).suffix
    if suffix not in _FORMATS:
        raise ValueError(f"path: expected the suffix {', '.join(_FORMATS)}, got {suffix!r} in {str(path)!r}")
    return _FORMATS[suffix]


def _identity(model: Model) -> tuple[str, str]:
    """The name and fingerprint of a model."""
    name, fingerprint = getattr(model, "name", None), getattr(model, "fingerprint", None)
    if not (isinstance(name, str) and isinstance(fingerprint, str)):
        raise TypeError(f"model: expected an Embedder or None, got {type(model).__name__}")
    check_texts([name, fingerprint], "model")
    return name, fingerprint


def _check(content: _Content) -> None:
    """Check the invariants of every file, including foreign ones."""
    texts, vectors, counts = content.texts, content.vectors, content.counts
    if isinstance(vectors, SparseVectors):  # which has checked everything else
        if len(texts) != vectors.rows:
            raise ValueError(f"vectors: expected {len(texts)}, one per text, got {vectors.rows}")
        return
    if vectors.ndim != 2 or vectors.shape[1] < 1:
        raise ValueError(f"vectors: expected the shape [texts, dim], got {list(vectors.shape)}")
    if vectors.dtype.name not in DTYPES:
        raise ValueError(
            f"vectors: expected {', '.join(DTYPES)}, got {vectors.dtype.name}; vectors.astype(np.float32) converts them"
        )
    if len(texts) != (items := len(vectors) if counts is None else len(counts)):
        raise ValueError(f"vectors: expected {len(texts)}, one per text, got {items}")
    if counts is not None and ((counts < 0).any() or counts.sum() != len(vectors)):
        raise ValueError(f"counts: expected numbers of vectors that add up to {len(vectors)}, got {counts.sum()}")
    if vectors.dtype.kind == "f":
        for rows in _blocks(vectors):
            if (bad := np.flatnonzero(~np.isfinite(vectors[rows]).all(axis=1))).size:
                row = int(rows.start + bad[0])
                text = row if counts is None else int(np.searchsorted(np.cumsum(counts), row, side="right"))
                raise ValueError(f"vectors[{text}]: expected finite numbers, got NaN or infinity")


def _blocks(vectors: Matrix) -> Iterable[slice]:
    """Slices of rows of at most `_BLOCK_BYTES` bytes, and at least one row."""
    step = max(1, _BLOCK_BYTES // (vectors.shape[1] * vectors.itemsize))
    return (slice(start, start + step) for start in range(0, len(vectors), step))


def _blocks_of_texts(content: _Content) -> Iterable[tuple[slice, slice]]:
    """Blocks as slices of texts, and as slices of their vectors."""
    vectors, counts = content.vectors, content.counts
    if counts is None:
        yield from ((rows, rows) for rows in _blocks(vectors))
        return
    ends = np.cumsum(counts)
    start, step = 0, max(1, _BLOCK_BYTES // (vectors.shape[1] * vectors.itemsize))
    while start < len(counts):
        first = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, first + step, side="right")))
        yield slice(start, end), slice(first, int(ends[end - 1]))
        start = end


def _check_file(path: Path) -> None:
    if not path.is_file():
        os.stat(path)  # noqa: PTH116 - raises FileNotFoundError
        raise EmbeddingsError(f"{path}: not a plain file")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise EmbeddingsError(f"{path}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")


def _check_comparable(path: Path, loaded: Embeddings, name: str, fingerprint: str) -> None:
    if loaded.fingerprint is None:
        raise EmbeddingsError(
            f"{path}: expected vectors of {name!r}, got vectors without a recorded model; load the file without "
            "model= if you know its model, or encode the texts again"
        )
    if loaded.fingerprint != fingerprint:
        raise EmbeddingsError(
            f"{path}: expected vectors of {name!r} (fingerprint {fingerprint[:12]}), got vectors of {loaded.model!r} "
            f"({loaded.fingerprint[:12]}), which are not comparable; load that model, or encode the texts again"
        )


def _to_json(record: _Record, **more: Any) -> str:
    return json.dumps({**asdict(record), **more}, ensure_ascii=False)


def _from_json(raw: Any, where: str) -> _Record:
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if type(version) is int and version != FORMAT_VERSION:
        raise EmbeddingsError(
            f"{where}: expected format version {FORMAT_VERSION}, got {version}; update embedrt, or encode again"
        )
    return decode(_Record, raw, where)


def _write_npy(folder: Path, target: Path, record: _Record, content: _Content) -> list[Path]:
    """Write the texts, the matrix, and the texts alone.

    Two files cannot be replaced at once. So the file of texts comes first, and has the texts of both the new matrix and
    the one that is there, each with the SHA-256 of its matrix. Whichever matrix is there finds its texts.
    """
    both, matrix, alone = (folder / name for name in ("1", "2", "3"))
    for step in (both, matrix, alone):
        step.mkdir()
    with (matrix / target.name).open("wb") as file:
        write_matrix(file, content.vectors)
    whole = _Record(record.format_version, record.model, record.fingerprint, _file_digest(matrix / target.name))
    counts = {} if content.counts is None else {"counts": content.counts.tolist()}
    written = _to_json(whole, texts=content.texts, **counts).encode() + b"\n"
    if (previous := _stored_texts(target)) is None:
        (both / _beside(target).name).write_bytes(written)
        return [both, matrix]
    with_previous = _to_json(whole, texts=content.texts, **counts, previous=previous)
    (both / _beside(target).name).write_bytes(with_previous.encode() + b"\n")
    (alone / _beside(target).name).write_bytes(written)
    return [both, matrix, alone]


def _stored_texts(path: Path) -> Any:
    """The record and texts of the matrix that is there; None if there is none, or one without its texts."""
    try:
        digest = _file_digest(path)
        raw = _of_matrix(parse_json(_beside(path).read_bytes(), _beside(path).name), digest)
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) and raw.get("sha256") == digest else None


def _of_matrix(raw: Any, digest: str) -> Any:
    """The record with the SHA-256 of a matrix, of one or two in a file of texts; the first one if none fits."""
    previous = raw.pop("previous", None) if isinstance(raw, dict) else None
    return previous if isinstance(previous, dict) and previous.get("sha256") == digest else raw


def _read_npy(path: Path) -> tuple[_Content, _Record]:
    beside = _beside(path)
    if not beside.is_file():
        raise EmbeddingsError(
            f"{path}: expected the file of its texts, {beside.name}, beside it, got none; copy both files, or read the "
            "matrix alone with numpy.load"
        )
    digest = _file_digest(path)
    raw = _of_matrix(parse_json(beside.read_bytes(), beside.name), digest)
    texts = raw.pop("texts", None) if isinstance(raw, dict) else None
    if not isinstance(texts, list):
        raise TypeError(f"{beside.name}: expected a list of texts")
    counts = raw.pop("counts", None)
    if counts is not None and not (isinstance(counts, list) and all(type(count) is int for count in counts)):
        raise TypeError(f"{beside.name}: counts: expected a list of integers")
    record = _from_json(raw, beside.name)
    if digest != record.sha256:
        raise EmbeddingsError(
            f"{path}: expected SHA-256 {record.sha256}, as in {beside.name}, got {digest}; one of the two files was "
            "damaged or replaced: copy both again, or encode the texts again"
        )
    with path.open("rb") as file:  # not numpy.load, which would also open archives
        vectors = np.lib.format.read_array(file, allow_pickle=False)
    return _Content(texts, vectors, None if counts is None else np.array(counts, np.int64)), record


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_safetensors(folder: Path, target: Path, record: _Record, content: _Content) -> list[Path]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file
    except ImportError as error:
        raise _missing("safetensors") from error
    encoded = [text.encode() for text in content.texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    tensors = {
        **_vector_tensors(content.vectors),
        "texts": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": offsets,
    }
    if content.counts is not None:
        tensors["counts"] = content.counts
    whole = _Record(record.format_version, record.model, record.fingerprint, _content_digest(record, tensors))
    try:
        save_file(tensors, folder / target.name, metadata={_KEY: _to_json(whole)})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    return [folder]


def _read_safetensors(path: Path) -> tuple[_Content, _Record]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise _missing("safetensors") from error
    names: tuple[str, ...] = ("vectors", "texts", "offsets")
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        keys = set(file.keys())
        names = (*names, "counts") if "counts" in keys else names
        names = (*_SPARSE_TENSORS, "texts", "offsets") if "indptr" in keys else names
        if _KEY not in metadata or keys != set(names):
            raise EmbeddingsError(f"{path}: a safetensors file, but not one that save_embeddings wrote")
        record = _from_json(parse_json(metadata[_KEY].encode(), _KEY), f"metadata {_KEY}")
        tensors = {name: file.get_tensor(name) for name in names}
    if _content_digest(record, tensors) != record.sha256:
        raise ValueError("the SHA-256 of its contents differs from the recorded one")
    encoded, offsets, counts = tensors["texts"], tensors["offsets"], tensors.get("counts")
    vectors = tensors["vectors"] if "vectors" in tensors else _sparse_of(tensors)
    if (encoded.dtype, encoded.ndim) != (np.uint8, 1) or (offsets.dtype, offsets.ndim) != (np.int64, 1):
        raise ValueError("expected texts uint8 [bytes] and offsets int64 [texts + 1]")
    ends: list[int] = offsets.tolist()
    if not ends or ends[0] != 0 or ends[-1] != len(encoded) or (np.diff(offsets) < 0).any():
        raise ValueError(f"expected text offsets that rise from 0 to {len(encoded)}")
    if counts is not None and (counts.dtype, counts.ndim) != (np.int64, 1):
        raise ValueError("expected counts int64 [texts]")
    content = encoded.tobytes()
    texts = [content[start:end].decode() for start, end in pairwise(ends)]
    return _Content(texts, vectors, counts), record


def _vector_tensors(vectors: Any) -> dict[str, Matrix]:
    """The tensors of the vectors of a file."""
    if not isinstance(vectors, SparseVectors):
        return {"vectors": vectors}
    arrays = vectors.indices, vectors.values, vectors.indptr, np.array([vectors.width], np.int64)
    return dict(zip(_SPARSE_TENSORS, map(np.ascontiguousarray, arrays), strict=True))


def _sparse_of(tensors: dict[str, Matrix]) -> SparseVectors:
    """The sparse vectors of a file; `SparseVectors` checks that its arrays fit each other."""
    indices, values, indptr, width = (tensors[name] for name in _SPARSE_TENSORS)
    dtypes = [tensor.dtype.name for tensor in (indices, values, indptr, width)]
    if dtypes != ["int32", "float32", "int64", "int64"] or indptr.ndim != 1 or not indptr.size or width.shape != (1,):
        raise ValueError("expected indices int32, values float32, indptr int64 [texts + 1] and width int64 [1]")
    return SparseVectors(indices, values, indptr, (len(indptr) - 1, int(width[0])))


def _content_digest(record: _Record, tensors: dict[str, Matrix]) -> str:
    """SHA-256 over model, fingerprint, shapes and tensors."""
    shapes = {name: [tensor.dtype.name, *tensor.shape] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([record.model, record.fingerprint, shapes]).encode())
    for tensor in tensors.values():
        digest.update(tensor.reshape(-1).data)
    return digest.hexdigest()


def _write_parquet(folder: Path, target: Path, record: _Record, content: _Content) -> list[Path]:
    pa, pq = _pyarrow()
    vectors, counts = content.vectors, content.counts
    vector = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
    kind = vector if counts is None else pa.list_(vector)
    schema = pa.schema({"text": pa.string(), "embedding": kind}, {_KEY: _to_json(record)})
    # Parquet stores a byte as 4 bytes; a dictionary of its 256 values stores it as one. Floats gain nothing from it.
    packed = vectors.dtype.kind != "f"
    columns = {"text": True, f"embedding{'.list.element' * (1 if counts is None else 2)}": packed}
    with pq.ParquetWriter(
        folder / target.name,
        schema,
        use_dictionary=[name for name, packs in columns.items() if packs],
        compression={name: "snappy" if packs else "none" for name, packs in columns.items()},
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        for rows, taken in _blocks_of_texts(content):
            values = pa.array(vectors[taken].reshape(-1))
            embedding = pa.FixedSizeListArray.from_arrays(values, type=vector)
            if counts is not None:
                offsets = pa.array(np.cumsum([0, *counts[rows]]), pa.int32())
                embedding = pa.ListArray.from_arrays(offsets, embedding, type=kind)
            writer.write_table(pa.table([pa.array(content.texts[rows], pa.string()), embedding], schema=schema))
    return [folder]


def _read_parquet(path: Path) -> tuple[_Content, _Record | None]:
    pa, pq = _pyarrow()
    # Small batches and buffers; otherwise a whole row group is held in memory beside the matrix.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        dtype, dim, has_several = _column_types(pa, schema)
        raw = (schema.metadata or {}).get(_KEY.encode())
        record = None if raw is None else _from_json(parse_json(raw, _KEY), f"metadata {_KEY}")
        if has_several:
            return _several(file, dtype, dim), record
        texts: list[str] = []
        vectors = None if dim is None else np.empty((file.metadata.num_rows, dim), dtype)
        for batch in file.iter_batches(1024, columns=["text", "embedding"]):
            block = _matrix(batch.column("embedding"), dim)
            if vectors is None:  # the first row has the width
                dim = block.shape[1]
                vectors = np.empty((file.metadata.num_rows, dim), dtype)
            vectors[len(texts) : len(texts) + len(block)] = block
            texts += batch.column("text").to_pylist()
    return _Content(texts, np.empty((0, 0), dtype) if vectors is None else vectors), record


def _several(file: Any, dtype: Any, dim: int | None) -> _Content:
    """The content of a Parquet file with several vectors per text."""
    texts: list[str] = []
    blocks: list[Matrix] = []
    counts = [np.empty(0, np.int64)]
    for batch in file.iter_batches(128, columns=["text", "embedding"]):
        column = batch.column("embedding")
        if column.null_count:
            raise ValueError("column 'embedding': expected vectors without nulls")
        if len(vectors := column.flatten()):
            blocks.append(_matrix(vectors, dim).copy())
            dim = blocks[-1].shape[1]
        counts.append(column.value_lengths().to_numpy().astype(np.int64))
        texts += batch.column("text").to_pylist()
    matrix = np.concatenate(blocks) if blocks else np.empty((0, dim or 1), dtype)
    return _Content(texts, matrix, np.concatenate(counts))


def _column_types(pa: Any, schema: Any) -> tuple[Any, int | None, bool]:
    """Check the two columns.

    Returns:
        The dtype of the vectors; their width if the column type has it; and True if a text has several.
    """
    if {"text", "embedding"} - {name for name in schema.names if schema.names.count(name) == 1}:
        raise ValueError(f"expected the columns 'text' and 'embedding', got {schema.names}")
    text, embedding = schema.field("text").type, schema.field("embedding").type
    words = text.value_type if pa.types.is_dictionary(text) else text
    if str(words) not in {"string", "large_string", "string_view"}:
        raise ValueError(f"column 'text': expected strings, got {text}")
    is_list = pa.types.is_list(embedding) or pa.types.is_large_list(embedding)
    has_several = is_list and pa.types.is_nested(embedding.value_type)
    vector = embedding.value_type if has_several else embedding
    fixed = pa.types.is_fixed_size_list(vector)
    if not (fixed or pa.types.is_list(vector) or pa.types.is_large_list(vector)):
        raise ValueError(f"column 'embedding': expected lists of numbers, got {embedding}")
    names = {str(pa.from_numpy_dtype(name)): np.dtype(name) for name in DTYPES}
    if (dtype := names.get(str(vector.value_type))) is None:
        raise ValueError(f"column 'embedding': expected lists of {', '.join(names)}, got {embedding}; cast the column")
    return dtype, vector.list_size if fixed else None, has_several


def _matrix(column: Any, dim: int | None) -> Matrix:
    """The matrix of a column of lists, without a copy."""
    values = column.flatten()
    if column.null_count or values.null_count:
        raise ValueError("column 'embedding': expected vectors without nulls")
    dim = len(column[0]) if dim is None else dim
    lengths = column.value_lengths().to_numpy() if hasattr(column, "value_lengths") else np.array([dim])
    if len(values) != len(column) * dim or (lengths != dim).any():
        raise ValueError("column 'embedding': expected vectors of equal length")
    matrix: Matrix = values.to_numpy().reshape(len(column), dim)
    return matrix


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing("pyarrow") from error
    return pyarrow, pyarrow.parquet


def _missing(package: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"{package} is not installed; run `pip install 'embedrt[storage]'`, or save as .npy, which needs no package"
    )


_FORMATS = {
    ".safetensors": _Format(_write_safetensors, _read_safetensors),
    ".npy": _Format(_write_npy, _read_npy),
    ".parquet": _Format(_write_parquet, _read_parquet),
}
SUFFIXES = tuple(_FORMATS)
"""The endings of files of embeddings."""
