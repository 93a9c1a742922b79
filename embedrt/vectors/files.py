"""Texts with their vectors in one file, and back. Nothing is ever pickled, and a vector keeps the name of its model."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedrt.bundle.atomic import replace_files, staging
from embedrt.bundle.strict_json import LFS_POINTER, decode, parse_json
from embedrt.errors import EmbeddingsError, EmbedrtError, MissingDependencyError
from embedrt.inputs.check import check_texts
from embedrt.vectors.arrays import as_array

FORMAT_VERSION = 1
DTYPES = ("float32", "float16", "int8", "uint8")
"""What vectors may be. The last two also hold the packed bits of "binary" and "ubinary" vectors."""

_KEY = "embedrt"  # of the record in the metadata of safetensors and Parquet
_BLOCK_BYTES = 1 << 25  # of a Parquet row group, and of what is checked at once

Matrix = NDArray[Any]


class Model(Protocol):
    """What made the vectors: an `Embedder`, or anything else with a name and a fingerprint."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Embeddings:
    """Texts and their vectors.

    Attributes:
        texts: The texts.
        vectors: `[texts, dim]` in the dtype that was saved.
        model: The name of the model that made the vectors, if it was recorded.
        fingerprint: That model's fingerprint, if it was recorded.
    """

    texts: list[str]
    vectors: Matrix
    model: str | None
    fingerprint: str | None


@dataclass(frozen=True)
class _Record:
    """What a file says of itself, as JSON.

    Attributes:
        format_version: Version of this contract.
        model: See `Embeddings`.
        fingerprint: See `Embeddings`.
        sha256: Of the whole `.npy` file, or of all that a `.safetensors` holds; Parquet has a checksum in every page.
    """

    format_version: int
    model: str | None
    fingerprint: str | None
    sha256: str | None = None


@dataclass(frozen=True)
class _Format:
    """A kind of file.

    Attributes:
        write: Writes a new file; the record is to be completed.
        read: Gives texts, vectors and the record, None in a foreign file without one. Raises anything.
    """

    write: Callable[[Path, _Record, list[str], Matrix], None]
    read: Callable[[Path], tuple[list[str], Matrix, _Record | None]]


def save_embeddings(
    path: str | Path, texts: str | Iterable[str], vectors: ArrayLike, model: Model | None = None
) -> None:
    """Writes texts and vectors to a file, whole or not at all. An existing file is replaced.

    The suffix chooses the format:

    - `.safetensors`: the tensors "vectors", "texts" (all texts in UTF-8, uint8) and "offsets" (int64, one more than
      texts: where each begins and ends).
    - `.npy`: the matrix alone, as `numpy.load` reads it. The texts are in `NAME.npy.json` beside it, with the SHA-256
      of the matrix: where only one of the two files was replaced, they do not load.
    - `.parquet`: the columns "text" and "embedding", a fixed-size list.

    Args:
        path: The file.
        texts: The texts.
        vectors: `[texts, dim]`, float32, float16, int8 or uint8, as an array, a tensor or a list of vectors.
        model: The `Embedder` that made the vectors. Its name and fingerprint are recorded, so that `load_embeddings`
            can tell whether vectors of another model may be compared with these.

    Raises:
        ValueError: An unknown suffix or dtype, different numbers of texts and vectors, NaN or infinity.
        TypeError: A text is not a str, `vectors` no numbers, or `model` not a model.
        MissingDependencyError: The package for this format is not installed.
    """
    path, kind, (items, _) = Path(path), _format_of(path), check_texts(texts)
    maker = (None, None) if model is None else _identity(model)
    matrix = as_array(vectors, "vectors")
    _check(items, matrix)
    matrix = np.ascontiguousarray(matrix, matrix.dtype.newbyteorder("="))
    with staging(path) as fresh:
        kind.write(fresh / path.name, _Record(FORMAT_VERSION, *maker), items, matrix)
        replace_files(fresh, path.parent)


def load_embeddings(path: str | Path, model: Model | None = None) -> Embeddings:
    """Reads what `save_embeddings` wrote, or a Parquet file with the columns "text" and "embedding".

    Args:
        path: The file.
        model: The `Embedder` whose vectors are to be compared with these.

    Raises:
        EmbeddingsError: The file is damaged or of another kind, or its vectors are of another model than `model`.
        ValueError: An unknown suffix.
        MissingDependencyError: The package for this format is not installed.
        FileNotFoundError: There is no such file.
    """
    path, kind = Path(path), _format_of(path)
    wanted = None if model is None else _identity(model)
    _check_file(path)
    try:
        texts, vectors, record = kind.read(path)
        check_texts(texts)
        _check(texts, vectors)
    except EmbedrtError:
        raise
    except Exception as error:  # the libraries raise what they like on damaged files
        raise EmbeddingsError(
            f"{path}: cannot be read as embeddings: {error}; get the file again, or encode the texts once more"
        ) from error
    found = Embeddings(texts, vectors, *((record.model, record.fingerprint) if record else (None, None)))
    if wanted is not None:
        _check_comparable(path, found, *wanted)
    return found


def _format_of(path: str | Path) -> _Format:
    suffix = Path(path).suffix
    if suffix not in _FORMATS:
        raise ValueError(f"path: {str(path)!r} has the suffix {suffix!r}; expected {', '.join(_FORMATS)}")
    return _FORMATS[suffix]


def _identity(model: Model) -> tuple[str, str]:
    """Name and fingerprint of a model."""
    found = getattr(model, "name", None), getattr(model, "fingerprint", None)
    if not (isinstance(found[0], str) and isinstance(found[1], str)):
        raise TypeError(f"model: expected an Embedder or None, got {type(model).__name__}")
    return found[0], found[1]


def _check(texts: list[str], vectors: Matrix) -> None:
    """What holds for every file, whoever wrote it."""
    if vectors.ndim != 2 or vectors.shape[1] < 1:
        raise ValueError(f"vectors: expected the shape [texts, dim], got {list(vectors.shape)}")
    if vectors.dtype.name not in DTYPES:
        raise ValueError(
            f"vectors: expected {', '.join(DTYPES)}, got {vectors.dtype.name}; vectors.astype(np.float32) converts them"
        )
    if len(texts) != len(vectors):
        raise ValueError(f"{len(texts)} texts, but {len(vectors)} vectors")
    if vectors.dtype.kind == "f":
        for rows in _blocks(vectors):
            if (bad := np.flatnonzero(~np.isfinite(vectors[rows]).all(axis=1))).size:
                raise ValueError(f"vectors[{rows.start + bad[0]}]: NaN or infinity, which cannot be compared")


def _blocks(vectors: Matrix) -> Iterable[slice]:
    """Slices of rows, each of at most `_BLOCK_BYTES` bytes if a row is."""
    step = max(1, _BLOCK_BYTES // (vectors.shape[1] * vectors.itemsize))
    return (slice(start, start + step) for start in range(0, len(vectors), step))


def _check_file(path: Path) -> None:
    if not path.is_file():
        os.stat(path)  # noqa: PTH116 - says what is missing
        raise EmbeddingsError(f"{path}: not a plain file")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise EmbeddingsError(f"{path}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")


def _check_comparable(path: Path, found: Embeddings, name: str, fingerprint: str) -> None:
    if found.fingerprint is None:
        raise EmbeddingsError(
            f"{path}: does not say which model made its vectors, so whether {name!r} may be compared with them is not "
            "known; load it without model=, if you know, or encode the texts with it"
        )
    if found.fingerprint != fingerprint:
        raise EmbeddingsError(
            f"{path}: its vectors are of {found.model!r} ({found.fingerprint[:12]}), and cannot be compared with those "
            f"of {name!r} ({fingerprint[:12]}); load that model, or encode the texts with this one"
        )


def _to_json(record: _Record, **more: Any) -> str:
    return json.dumps({**asdict(record), **more}, ensure_ascii=False)


def _from_json(raw: Any, where: str) -> _Record:
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if type(version) is int and version != FORMAT_VERSION:
        raise EmbeddingsError(
            f"{where}: format version {version}, this embedrt reads {FORMAT_VERSION}; update embedrt, or encode again"
        )
    return decode(_Record, raw, where)


def _write_npy(path: Path, record: _Record, texts: list[str], vectors: Matrix) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, vectors, allow_pickle=False)
    whole = _Record(record.format_version, record.model, record.fingerprint, _file_digest(path))
    _beside(path).write_bytes(_to_json(whole, texts=texts).encode() + b"\n")


def _read_npy(path: Path) -> tuple[list[str], Matrix, _Record]:
    beside = _beside(path)
    if not beside.is_file():
        raise EmbeddingsError(
            f"{path}: {beside.name}, the file with its texts, is not beside it; copy both. "
            "numpy.load reads the matrix alone"
        )
    raw = parse_json(beside.read_bytes(), beside.name)
    texts = raw.pop("texts", None) if isinstance(raw, dict) else None
    if not isinstance(texts, list):
        raise TypeError(f"{beside.name} has no list of texts")
    record = _from_json(raw, beside.name)
    if (digest := _file_digest(path)) != record.sha256:
        raise EmbeddingsError(
            f"{path}: SHA-256 {digest}, but {beside.name} has the texts of {record.sha256}; one of the two was damaged "
            "or replaced: copy both again, or encode the texts once more"
        )
    with path.open("rb") as file:  # not numpy.load, which would also open archives
        return texts, np.lib.format.read_array(file, allow_pickle=False), record


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_safetensors(path: Path, record: _Record, texts: list[str], vectors: Matrix) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise _missing("safetensors") from error
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    tensors = {"vectors": vectors, "texts": np.frombuffer(b"".join(encoded), np.uint8), "offsets": offsets}
    whole = _Record(record.format_version, record.model, record.fingerprint, _content_digest(record, tensors))
    save_file(tensors, path, metadata={_KEY: _to_json(whole)})


def _read_safetensors(path: Path) -> tuple[list[str], Matrix, _Record]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise _missing("safetensors") from error
    names = ("vectors", "texts", "offsets")
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata or set(file.keys()) != set(names):
            raise EmbeddingsError(f"{path}: a safetensors file, but not one that save_embeddings wrote")
        record = _from_json(parse_json(metadata[_KEY].encode(), _KEY), f"metadata {_KEY}")
        tensors = {name: file.get_tensor(name) for name in names}
    if _content_digest(record, tensors) != record.sha256:
        raise ValueError("its content does not have the SHA-256 that it says")
    vectors, encoded, offsets = tensors.values()
    if (encoded.dtype, encoded.ndim) != (np.uint8, 1) or (offsets.dtype, offsets.ndim) != (np.int64, 1):
        raise ValueError("texts or offsets are of another dtype or shape")
    ends: list[int] = offsets.tolist()
    if not ends or ends[0] != 0 or ends[-1] != len(encoded) or (np.diff(offsets) < 0).any():
        raise ValueError(f"the offsets of the texts do not rise from 0 to {len(encoded)}")
    content = encoded.tobytes()
    return [content[start:end].decode() for start, end in pairwise(ends)], vectors, record


def _content_digest(record: _Record, tensors: dict[str, Matrix]) -> str:
    """SHA-256 over all that the file says."""
    shapes = {name: [tensor.dtype.name, *tensor.shape] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([record.model, record.fingerprint, shapes]).encode())
    for tensor in tensors.values():
        digest.update(tensor.reshape(-1).data)
    return digest.hexdigest()


def _write_parquet(path: Path, record: _Record, texts: list[str], vectors: Matrix) -> None:
    pa, pq = _pyarrow()
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
    schema = pa.schema({"text": pa.string(), "embedding": kind}, {_KEY: _to_json(record)})
    # Parquet stores a byte in four; a dictionary of its 256 values stores it in one. Floats have no use for either.
    packed = vectors.dtype.kind != "f"
    columns = {"text": True, "embedding.list.element": packed}
    with pq.ParquetWriter(
        path,
        schema,
        use_dictionary=[name for name, packs in columns.items() if packs],
        compression={name: "snappy" if packs else "none" for name, packs in columns.items()},
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        for rows in _blocks(vectors):
            values = pa.array(vectors[rows].reshape(-1))
            embedding = pa.FixedSizeListArray.from_arrays(values, type=kind)
            writer.write_table(pa.table([pa.array(texts[rows], pa.string()), embedding], schema=schema))


def _read_parquet(path: Path) -> tuple[list[str], Matrix, _Record | None]:
    pa, pq = _pyarrow()
    # Small batches over small buffers: the pages of a whole row group would otherwise be held beside the matrix.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        dtype, dim = _column_types(pa, schema)
        raw = (schema.metadata or {}).get(_KEY.encode())
        record = None if raw is None else _from_json(parse_json(raw, _KEY), f"metadata {_KEY}")
        texts: list[str] = []
        vectors = None if dim is None else np.empty((file.metadata.num_rows, dim), dtype)
        for batch in file.iter_batches(1024, columns=["text", "embedding"]):
            block = _matrix(batch.column("embedding"), dim)
            if vectors is None:  # the first row has told the width
                dim = block.shape[1]
                vectors = np.empty((file.metadata.num_rows, dim), dtype)
            vectors[len(texts) : len(texts) + len(block)] = block
            texts += batch.column("text").to_pylist()
    return texts, np.empty((0, 0), dtype) if vectors is None else vectors, record


def _column_types(pa: Any, schema: Any) -> tuple[Any, int | None]:
    """Checks the two columns; returns the dtype of the vectors, and their width if the column's type has it."""
    if missing := {"text", "embedding"} - {name for name in schema.names if schema.names.count(name) == 1}:
        raise ValueError(f"no column {' and '.join(map(repr, sorted(missing)))}; its columns are {schema.names}")
    text, embedding = schema.field("text").type, schema.field("embedding").type
    words = text.value_type if pa.types.is_dictionary(text) else text
    if str(words) not in {"string", "large_string", "string_view"}:
        raise ValueError(f"column 'text': expected strings, got {text}")
    fixed = pa.types.is_fixed_size_list(embedding)
    if not (fixed or pa.types.is_list(embedding) or pa.types.is_large_list(embedding)):
        raise ValueError(f"column 'embedding': expected lists of numbers, got {embedding}")
    names = {str(pa.from_numpy_dtype(name)): np.dtype(name) for name in DTYPES}
    if (dtype := names.get(str(embedding.value_type))) is None:
        raise ValueError(f"column 'embedding': expected lists of {', '.join(names)}, got {embedding}; cast the column")
    return dtype, embedding.list_size if fixed else None


def _matrix(column: Any, dim: int | None) -> Matrix:
    """The rows of one column of lists, without a copy."""
    values = column.flatten()
    if column.null_count or values.null_count:
        raise ValueError("column 'embedding': rows without a vector, or vectors without a number")
    dim = len(column[0]) if dim is None else dim
    lengths = column.value_lengths().to_numpy() if hasattr(column, "value_lengths") else np.array([dim])
    if len(values) != len(column) * dim or (lengths != dim).any():
        raise ValueError("column 'embedding': vectors of different lengths")
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
        f"{package} is not installed; `pip install 'embedrt[storage]'` brings it. The format .npy needs nothing more"
    )


_FORMATS = {
    ".safetensors": _Format(_write_safetensors, _read_safetensors),
    ".npy": _Format(_write_npy, _read_npy),
    ".parquet": _Format(_write_parquet, _read_parquet),
}
