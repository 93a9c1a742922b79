"""The bundle: what export writes and the runtime reads. Both sides share this module and nothing else.

A bundle is a folder of plain files with the manifest `embedrt.json`. The manifest is the only thing that the runtime
trusts, and it lists every other file with its size and SHA-256.
"""

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from embedrt.bundle.reports import ParityReport, QualityReport
from embedrt.bundle.strict_json import LFS_POINTER, RecordError, decode, read_json
from embedrt.errors import BundleError

FORMAT_VERSION = 2
MANIFEST = "embedrt.json"
TUNED = "embedrt.tuned.json"
"""What `embedrt tune` found on one machine: beside the bundle, and no part of it."""
DEFAULT_ROUTE = "default"
# The largest finite float32; vectors, and with them their ranges, are float32.
_LARGEST = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True)
class Source:
    """Where the model came from.

    Attributes:
        kind: A hub repo, a local folder, or an installed Python package that carries a model folder.
        id: Hub id, folder name or package name; never a path of the machine that exported.
        revision: The hub commit, or the package's version; None for a folder.
    """

    kind: Literal["hub", "folder", "package"]
    id: str
    revision: str | None


@dataclass(frozen=True)
class Module:
    """One module of the chain that turns text into a vector, in order, with the settings that change the numbers."""

    type: str
    settings: dict[str, Any]

    @property
    def summary(self) -> str:
        """The module in a few words, such as "Pooling mean"."""
        details = [*self.settings.get("pooling_mode", ()), *filter(None, [self.settings.get("task")])]
        return f"{self.type} {', '.join(map(str, details))}" if details else self.type


@dataclass(frozen=True)
class Tokenization:
    """How token ids become the graph's inputs.

    Attributes:
        pad_id: The id that fills the rows of a batch; masked, so its embedding never matters.
        padding_side: The side on which a batch is padded.
        token_type_ids: Whether the graph wants the tokenizer's type ids as a third input.
        pooling_mask: Whether the graph wants a mask of the tokens to pool as an input, because the prompt's tokens are
            left out.
        embedding_rows: Rows of the word embedding table: every token id must be below.
    """

    pad_id: int
    padding_side: Literal["left", "right"]
    token_type_ids: bool
    pooling_mask: bool
    embedding_rows: int


@dataclass(frozen=True)
class Graph:
    """One precision of the model.

    Attributes:
        file: The ONNX file.
        data: The file with its weights, which ONNX Runtime maps instead of copying.
        flavour: Which operators it uses: "portable" means standard ONNX only, every execution provider runs it;
            "onnxruntime" also operators of ONNX Runtime (com.microsoft), which other engines do not have; "cpu" also
            such as ONNX Runtime has for processors alone.
        cpu: The same graph over the same weights, in the shape that ONNX Runtime runs fastest on a processor; None
            where that is `file`.
    """

    file: str
    data: str
    flavour: Literal["portable", "onnxruntime", "cpu"]
    cpu: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the graph."""
        return (self.file, self.data) if self.cpu is None else (self.file, self.data, self.cpu)


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Route:
    """One way from text to vector. Most models have one; a Router has one for queries and one for documents.

    Attributes:
        architecture: The `model_type` of the transformer, or "static" for a table of token embeddings alone.
        via: How the graph was made; "native" is from config and weights, without torch.
        modules: The module chain, with the settings that change the numbers.
        hidden_size: Width of a token embedding.
        normalized: Whether the graph ends with an L2 normalization.
        max_seq_length: Tokens that the model reads, special tokens included, or None without limit; what is beyond is
            cut off.
        position_limit: What `max_seq_length` may be set to at most: the positions that the graph has, or was made for;
            None if there is no end.
        tokenizer: The tokenizer's file.
        tokenization: How token ids become inputs.
        graphs: The graph files by precision.
        parity_texts: The file with the texts of the proof.
        parity_vectors: The file with their reference vectors.
        parity: The proof, by precision.
        quality: The same for precisions that are not exact.
    """

    architecture: str
    via: Literal["native", "onnx", "optimum"]
    modules: tuple[Module, ...]
    hidden_size: int
    normalized: bool
    max_seq_length: int | None
    position_limit: int | None
    tokenizer: str
    tokenization: Tokenization
    graphs: dict[str, Graph]
    parity_texts: str
    parity_vectors: str
    parity: dict[str, ParityReport]
    quality: dict[str, QualityReport]

    @property
    def has_token_embeddings(self) -> bool:
        """Whether the graph gives the token embeddings too; a static model has none."""
        return self.architecture != "static"


@dataclass(frozen=True)
class Manifest:
    """The contents of `embedrt.json`.

    Attributes:
        format_version: Version of this contract.
        name: The name that the store lists.
        source: Where the model came from.
        dim: Width of a sentence embedding, before truncation.
        routes: The ways from text to vector by name; a model without a Router has the one named "default".
        tasks: Which route a task takes, such as "query" or "document"; the empty name is for calls that name none.
        prompts: Texts that go before an input, by name.
        default_prompt_name: The prompt for calls that name none.
        truncate_dim: Coordinates to keep by default; None keeps all.
        similarity_fn_name: The similarity that the model was trained for.
        files: Every file of the bundle but the manifest, by path with forward slashes.
        fingerprint: SHA-256 over architecture, weights, tokenizer, module chain and maximum length of every route: two
            bundles with equal fingerprints make vectors that may share an index.
        vector_ranges: Two rows of `dim` numbers, the minimum and the maximum of every coordinate, for int8 and uint8
            vectors; None if not calibrated.
        made_with: Versions of what made the bundle.
    """

    format_version: int
    name: str
    source: Source
    dim: int
    routes: dict[str, Route]
    tasks: dict[str, str]
    prompts: dict[str, str]
    default_prompt_name: str | None
    truncate_dim: int | None
    similarity_fn_name: str | None
    files: dict[str, FileRecord]
    fingerprint: str
    vector_ranges: tuple[tuple[float, ...], ...] | None
    made_with: dict[str, str]

    def task_of(self, route: str) -> str | None:
        """A task that takes a route; None if no call can ask for it. The empty name is for calls that name none."""
        return next((task for task, taken in self.tasks.items() if taken == route), None)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the bundle has."""
        return tuple(next(iter(self.routes.values())).graphs)


def read_bundle(folder: Path) -> Manifest:
    """Reads the manifest of a bundle and checks every file that it lists: kind, size and SHA-256.

    Raises:
        BundleError: Names the file or field and what to do about it.
    """
    manifest = read_manifest(folder)
    for name, record in manifest.files.items():
        _check_file(folder, name, record)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks `embedrt.json` alone, without a look at the files that it lists.

    Raises:
        BundleError: There is none, or it is not a manifest of this format version.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder")
    if not os.path.lexists(path):
        raise BundleError(
            f"{folder}: not a bundle, it has no {MANIFEST}; `embedrt export {folder}` makes one of a model"
        )
    _plain_file_size(folder, MANIFEST)
    try:
        raw = read_json(path)
        version = raw.get("format_version") if isinstance(raw, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            remedy = "update embedrt" if version > FORMAT_VERSION else "export the model again"
            raise BundleError(f"{path}: format version {version}, this embedrt reads {FORMAT_VERSION}; {remedy}")
        manifest = decode(Manifest, raw, MANIFEST)
    except RecordError as error:
        raise BundleError(f"{folder}: {error}") from error
    _check_consistency(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `embedrt.json` into a folder that holds the other files."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_bytes(text.encode() + b"\n")


def record_files(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Size and SHA-256 of the named files, as the manifest lists them."""
    return {name: FileRecord((folder / name).stat().st_size, sha256_of(folder / name)) for name in sorted(names)}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_consistency(folder: Path, manifest: Manifest) -> None:
    """What the types cannot say: values in range, and every part that the runtime needs is listed."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise BundleError(f"{folder}: {MANIFEST}: {message}")

    for name in manifest.files:
        plain = _is_plain(name) and name not in {MANIFEST, TUNED}
        require(plain, f"files: {name!r} is not a plain path inside the bundle")
    require(manifest.dim > 0, f"dim: expected a positive integer, got {manifest.dim}")
    require(
        manifest.truncate_dim is None or 0 < manifest.truncate_dim <= manifest.dim,
        f"truncate_dim: expected 1 to {manifest.dim}, got {manifest.truncate_dim}",
    )
    require(
        manifest.default_prompt_name is None or manifest.default_prompt_name in manifest.prompts,
        f"default_prompt_name: {manifest.default_prompt_name!r} is not among the prompts {sorted(manifest.prompts)}",
    )
    if manifest.vector_ranges is not None:
        _check_ranges(manifest.vector_ranges, manifest.dim, require)
    require(bool(manifest.routes), "routes: none at all")
    for task, route_name in manifest.tasks.items():
        require(route_name in manifest.routes, f"tasks.{task}: no route {route_name!r}")
    for name, route in manifest.routes.items():
        at = f"routes.{name}"
        require(route.hidden_size > 0, f"{at}.hidden_size: expected a positive integer, got {route.hidden_size}")
        require(
            route.max_seq_length is None or route.max_seq_length > 0,
            f"{at}.max_seq_length: expected a positive integer or null, got {route.max_seq_length}",
        )
        require(
            route.position_limit is None
            or (route.max_seq_length is not None and route.max_seq_length <= route.position_limit),
            f"{at}.position_limit: expected at least max_seq_length, got {route.position_limit}",
        )
        require(
            0 <= route.tokenization.pad_id < route.tokenization.embedding_rows,
            f"{at}.tokenization.pad_id: {route.tokenization.pad_id} is outside of the embedding table",
        )
        require(bool(route.graphs), f"{at}.graphs: no precision at all")
        require(
            tuple(route.graphs) == manifest.precisions,
            f"{at}.graphs: {sorted(route.graphs)}, but another route has {sorted(manifest.precisions)}",
        )
        require(
            sorted([*route.parity, *route.quality]) == sorted(route.graphs),
            f"{at}.parity and quality: reports for {sorted([*route.parity, *route.quality])}, but graphs for "
            f"{sorted(route.graphs)}",
        )
        needed = {route.tokenizer, route.parity_texts, route.parity_vectors}
        needed |= {file for graph in route.graphs.values() for file in graph.files}
        missing = sorted(needed - set(manifest.files))
        require(not missing, f"files: {', '.join(missing)} not listed")


def _check_ranges(ranges: tuple[tuple[float, ...], ...], dim: int, require: Callable[[bool, str], None]) -> None:
    shape = [len(row) for row in ranges]
    require(shape == [dim, dim], f"vector_ranges: expected 2 rows of {dim} numbers, got rows of {shape}")
    for i, (low, high) in enumerate(zip(*ranges, strict=True)):
        require(
            -_LARGEST <= low <= high <= _LARGEST,
            f"vector_ranges: coordinate {i} goes from {low} to {high}; expected two float32 numbers that do not fall",
        )


def _is_plain(name: str) -> bool:
    """Whether a path can be printed and leads to one place inside the folder, on every platform."""
    parts = PurePosixPath(name).parts
    canonical = bool(parts) and name == "/".join(parts) and not {"..", "/"} & set(parts)
    return canonical and name.isprintable() and not set('\\:*?"<>|') & set(name)


def _check_file(folder: Path, name: str, record: FileRecord) -> None:
    path = folder / name
    if (size := _plain_file_size(folder, name)) != record.size:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise BundleError(f"{path}: a Git LFS pointer instead of the file; run `git lfs pull` in the repo")
        raise BundleError(f"{path}: {size} bytes, {MANIFEST} says {record.size}; get the bundle again")
    if (digest := sha256_of(path)) != record.sha256:
        raise BundleError(f"{path}: SHA-256 {digest}, {MANIFEST} says {record.sha256}; get the bundle again")


def _plain_file_size(folder: Path, name: str) -> int:
    """The size of a file that is neither a link nor reached through one, and that can be opened without hanging."""
    path = folder / name
    for parent in [path, *path.parents][: len(PurePosixPath(name).parts)]:
        if parent.is_symlink():
            raise BundleError(f"{path}: a symlink; bundles hold plain files only, copy the bundle with links resolved")
    try:
        status = path.stat()
    except OSError as error:
        raise BundleError(f"{path}: listed in {MANIFEST}, but missing; get the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path}: not a plain file")
    return status.st_size


def sync(folder: Path) -> None:
    """Flushes every file and folder below to the disk, so that a rename after it publishes whole files only."""
    for parent, _, files in os.walk(folder):
        for path in [*(Path(parent) / file for file in files), Path(parent)]:
            flush(path)


def flush(path: Path) -> None:
    """Flushes one file, or the entries of one folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders; its file system journals renames
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
