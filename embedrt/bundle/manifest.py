"""The manifest of a bundle, `embedrt.json`: its dataclasses, reading and writing.

A bundle is a folder of plain files. The manifest lists every other file with its size and SHA-256.
`docs/reference/bundle.md` describes the format for other programs.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from embedrt.bundle.check import FileRecord, Verify, plain_file_size, sha256_of
from embedrt.bundle.opened import TRIES, BundleFiles
from embedrt.bundle.reports import ParityReport, QualityReport, RankReport
from embedrt.bundle.staging import recover
from embedrt.bundle.strict_json import RecordError, decode, read_json
from embedrt.errors import BundleError
from embedrt.types import (
    ACTIVATIONS,
    DTYPES,
    LOGITS,
    MULTI_VECTOR,
    MULTI_VECTOR_SIMILARITIES,
    SENTENCE,
    SIMILARITIES,
    SPARSE,
    TOKENS,
    Task,
)

FORMAT_VERSION = 3
MANIFEST = "embedrt.json"
TUNED = "embedrt.tuned.json"
"""The measurements of `embedrt tune` on one machine: stored beside the manifest, but not part of the bundle."""
DEFAULT_ROUTE = "default"
FLOAT32 = "float32"
"""The reference dtype."""
# The largest finite float32; vectors and their ranges are float32.
_LARGEST = (2 - 2**-23) * 2.0**127
MOST_TOKENS = 2**31 - 1
"""The largest number of tokens, and the largest token id: both are int32."""
_MOST_BYTES = 2**63 - 1
# Far more than any model has; a vector of this width takes 4 MiB.
_WIDEST = 2**20
_LONGEST_STEP = 1024
# Of two int8 weights of 127.
_LARGEST_PAIR = 254
# The cosine similarity of two equal vectors in float64, with its rounding.
_LARGEST_COSINE = 1.0001
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Words that need no quoting in a shell command.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")

Kind = Literal["sentence", "tokens", "scores", "sparse", "multi-vector"]
KIND_OF_TASK: dict[Task, Kind] = {
    "embed": "sentence",
    "score": "scores",
    "sparse": "sparse",
    "multi-vector": "multi-vector",
}
"""The kind of output that a model of each task must have."""
NAME_OF_KIND: dict[Kind, str] = {
    "tokens": TOKENS,
    "sentence": SENTENCE,
    "scores": LOGITS,
    "sparse": SPARSE,
    "multi-vector": MULTI_VECTOR,
}
"""The name of each kind of output in the graphs."""
_SIMILARITIES_OF_TASK: dict[Task, tuple[str, ...]] = {
    "embed": SIMILARITIES,
    "score": (),
    "sparse": SIMILARITIES,
    "multi-vector": MULTI_VECTOR_SIMILARITIES,
}


@dataclass(frozen=True)
class Source:
    """The origin of the model.

    Attributes:
        kind: A hub repo, a local folder, or an installed Python package that carries a model folder.
        id: Hub id, folder name or package name; never a local path.
        revision: The hub commit, or the package's version; null for a folder.
    """

    kind: Literal["hub", "folder", "package"]
    id: str
    revision: str | None


@dataclass(frozen=True)
class Module:
    """One module of the module chain from text to vector.

    Attributes:
        type: The class name in sentence-transformers, such as "Pooling".
        settings: The settings that affect the vectors.
    """

    type: str
    settings: dict[str, Any]

    @property
    def summary(self) -> str:
        """The module in a few words, such as "Pooling mean"."""
        details = [*self.settings.get("pooling_mode", ()), *filter(None, [self.settings.get("task")])]
        return f"{self.type} {', '.join(map(str, details))}" if details else self.type


@dataclass(frozen=True)
class Piece:
    """A part of the text that a model reads for a pair: a fixed text, or the place of one that differs.

    Attributes:
        text: The fixed text.
        place: The text that goes here instead: the first of the pair, the second, or the prompt.
        strip: True if white space around that text is removed.
    """

    text: str = ""
    place: Literal["query", "document", "prompt"] | None = None
    strip: bool = False


@dataclass(frozen=True)
class Template:
    """The text that a model reads for a pair, as the chat template of a language model renders it.

    Attributes:
        plain: Its parts without a prompt.
        prompted: Its parts with a prompt, which some templates leave out; null if the template fails for prompts.
    """

    plain: tuple[Piece, ...]
    prompted: tuple[Piece, ...] | None


@dataclass(frozen=True)
class Tokenization:
    """Conversion of texts to the inputs of the graphs.

    Attributes:
        pad_id: The padding token id; it does not affect the vectors, because the attention mask excludes padding.
        padding_side: The side on which rows are padded.
        token_type_ids: True if the graphs take token type ids as an input.
        pooling_mask: True if the graphs take a mask of the tokens to pool, because prompt tokens are not pooled.
        embedding_rows: Rows of the word embedding table; every token id is smaller.
        template: The text that stands for a pair; null for pairs that the tokenizer joins, and for single texts.
    """

    pad_id: int
    padding_side: Literal["left", "right"]
    token_type_ids: bool
    pooling_mask: bool
    embedding_rows: int
    template: Template | None = None


@dataclass(frozen=True)
class Scratch:
    """Keys and values that the attention of a packed graph writes and reads again, in device memory.

    The graph takes them as the inputs `key_scratch` and `value_scratch`, `[blocks, 256, heads, size]` in the variant's
    dtype; their content is of no account. A text takes one block for every 256 tokens that it begins.

    Attributes:
        heads: Heads of keys and values.
        size: Width of a head.
    """

    heads: int
    size: int


@dataclass(frozen=True)
class Packing:
    """Inputs of a packed graph.

    Attributes:
        inputs: Their names; `embedrt.inputs.packing` makes an array of each.
        padding_id: A token with this id has position 0 and is not counted in the positions of the tokens after it, as
            in RoBERTa, whose first token has position 1; null counts every token, from 0 on.
        length_step: The length that the inputs of a batch are laid out for is a multiple of this many tokens.
        scratch: Memory for keys and values; null if the graph takes none.
    """

    inputs: tuple[str, ...]
    padding_id: int | None
    length_step: int
    scratch: Scratch | None


@dataclass(frozen=True)
class Variant:
    """One graph file and its own proof.

    Attributes:
        dtype: The number format of its weights and arithmetic: "float32", "float16", "bfloat16" or "int8".
        file: The ONNX file.
        data: The file with the weights, which ONNX Runtime memory-maps; null if they are in `file`.
        operators: "portable" uses standard ONNX operators only, which every engine runs; "onnxruntime" also uses
            ONNX Runtime's own operators (com.microsoft).
        devices: The kinds of device that run it, such as "cpu", or "cpu-x86" for CPUs of x86-64; empty for every kind.
        layout: "padded" takes inputs `[batch, sequence]`; "packed" takes all tokens of a batch in one stream.
        proof: The accuracy of this file, measured at export: a parity report, or for lossy dtypes a quality report;
            for scores in these, a rank report. Null only during an export.
        packing: The inputs of a packed graph; null for a padded one.
        largest_pair: For int8: in rows `2k` and `2k + 1` of the weight of a linear layer, `[channels, outputs]`, the
            positive weights of a column add up to at most this number, and the negative ones to at least its negative.
            Up to 128, no kernel for uint8 by int8 saturates. Null if nothing is known.
    """

    dtype: str
    file: str
    data: str | None
    operators: Literal["portable", "onnxruntime"]
    devices: tuple[str, ...]
    layout: Literal["padded", "packed"]
    proof: ParityReport | QualityReport | RankReport | None
    packing: Packing | None = None
    largest_pair: int | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the variant."""
        return (self.file,) if self.data is None else (self.file, self.data)


@dataclass(frozen=True)
class Output:
    """One output of the graphs.

    Attributes:
        kind: "sentence" is one vector per text `[batch, width]`; "tokens" and "multi-vector" are one vector per token
            `[batch, sequence, width]`; "scores" are `[batch, width]`; "sparse" are vocabulary weights
            `[batch, width]`.
        width: The size of the last axis.
        normalized: True if the vectors have length 1.
    """

    kind: Kind
    width: int
    normalized: bool


@dataclass(frozen=True)
class Route:
    """One path from text to vector. Most models have one; a Router has one for queries and one for documents.

    Attributes:
        architecture: The `model_type` of the transformer, or "static" for a table of token embeddings alone.
        via: The origin of the graphs: "native" builds them from config and weights, "onnx" starts from an ONNX file in
            the repo, "optimum" from one that optimum-onnx makes.
        modules: The module chain, in order.
        max_seq_length: Maximum number of tokens, special tokens included; longer texts are truncated. Null without a
            limit.
        position_limit: Upper bound for `max_seq_length`: the number of positions that the graph supports. Null without
            a limit.
        tokenizer: The tokenizer's file.
        tokenization: The conversion of token ids to inputs.
        variants: The graph files in order of preference: a device runs the first one that fits it and the dtype.
        outputs: The outputs of the graphs by name.
        parity_texts: The file with the parity texts.
        parity_vectors: The file with the reference vectors of the parity texts.
        parity_max_seq_length: The `max_seq_length` of the proof; a copy of the bundle may have another limit.
    """

    architecture: str
    via: Literal["native", "onnx", "optimum"]
    modules: tuple[Module, ...]
    max_seq_length: int | None
    position_limit: int | None
    tokenizer: str
    tokenization: Tokenization
    variants: tuple[Variant, ...]
    outputs: dict[str, Output]
    parity_texts: str
    parity_vectors: str
    parity_max_seq_length: int | None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of the variants, without duplicates, in order of preference."""
        return tuple(dict.fromkeys(variant.dtype for variant in self.variants))

    @property
    def normalized(self) -> bool:
        """True if sentence embeddings have length 1."""
        return any(output.normalized for output in self.outputs.values() if output.kind == "sentence")

    @property
    def has_token_embeddings(self) -> bool:
        """True if the graphs also output token embeddings; a static model has none."""
        return any(output.kind == "tokens" for output in self.outputs.values())

    def variants_in(self, dtype: str) -> tuple[Variant, ...]:
        """The variants of one dtype, in order of preference."""
        return tuple(variant for variant in self.variants if variant.dtype == dtype)


@dataclass(frozen=True)
class Expansion:
    """Query expansion of late interaction: tokens that are added to short queries, each with a vector.

    Attributes:
        strategy: "fixed" also truncates longer queries to `length`; "min" leaves them as they are.
        length: Tokens of an expanded query, special tokens included.
        attend: True if the tokens of the query attend to the added ones.
        token_id: The id of the added token.
    """

    strategy: Literal["fixed", "min"]
    length: int
    attend: bool
    token_id: int


@dataclass(frozen=True)
class TokenPooling:
    """Clustering of the vectors of a text; see `embedrt.HierarchicalTokenPooling`.

    Attributes:
        pool_factor: The number of vectors for each cluster, on average.
        num_protected_tokens: The number of vectors at the start of a text that stay as they are.
        normalize_embeddings: True to scale the mean of each cluster to length 1.
        tasks: The tasks whose vectors are clustered.
    """

    pool_factor: float
    num_protected_tokens: int
    normalize_embeddings: bool
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class MultiVector:
    """The tokens of a text that a multi-vector model reads, and those whose vectors count.

    Attributes:
        query_length: Maximum tokens of a query; null for `max_seq_length`.
        document_length: Likewise of a document.
        expansion: The expansion of queries; null for none.
        skipped_start: Tokens at the start of every text whose vectors do not count.
        skipped_ids: Tokens whose vectors do not count.
        skipped_tasks: The tasks of `skipped_ids`; a text without a task counts as "document".
        kept_ids: The only tokens whose vectors count, except in queries; null for all.
        pooling: The clustering of the vectors; null for none.
    """

    query_length: int | None = None
    document_length: int | None = None
    expansion: Expansion | None = None
    skipped_start: int = 0
    skipped_ids: tuple[int, ...] = ()
    skipped_tasks: tuple[str, ...] = ()
    kept_ids: tuple[int, ...] | None = None
    pooling: TokenPooling | None = None


@dataclass(frozen=True)
class Scoring:
    """Settings of a model that scores pairs.

    Attributes:
        activation: The function that follows the logits, by torch's name, such as "Sigmoid".
    """

    activation: str


@dataclass(frozen=True)
class Sparse:
    """Settings of a sparse model.

    Attributes:
        max_active_dims: The number of entries to keep of every vector, the largest; null keeps all.
    """

    max_active_dims: int | None = None


@dataclass(frozen=True)
class Manifest:
    """The contents of `embedrt.json`.

    Attributes:
        format_version: Version of the format.
        name: The name in the store.
        task: The kind of model: "embed" makes one vector per text, "score" scores pairs of texts, "sparse" makes
            vocabulary weights, "multi-vector" makes one vector per token.
        source: The origin of the model.
        routes: The routes by name; a model without a Router has one, named "default".
        tasks: The route of each task, such as "query" or "document"; the empty name is for calls without a task.
        prompts: Prompts by name.
        default_prompt_name: The prompt for calls without a prompt; null for none.
        truncate_dim: The number of coordinates to keep by default; null keeps all.
        similarity_fn_name: The similarity that the model was trained for: "cosine", "dot", "euclidean" or "manhattan",
            or for "multi-vector" "maxsim" or "meanmaxsim"; null for the default of the task.
        files: Every file of the bundle but the manifest, by path with forward slashes.
        fingerprint: The fingerprint of the vector space: SHA-256 over architecture, weights, tokenizer, module chain
            and maximum length of every route. Vectors with equal fingerprints may share an index.
        vector_ranges: The minimum and maximum of every coordinate, `[2, dim]`, for int8 and uint8 vectors; null until
            `embedrt ranges` measures them.
        made_with: The packages that made the bundle, with versions.
        multi_vector: The settings of multi-vector embeddings; null for models without these.
        sparse: Settings of a sparse model; null for other tasks.
        scoring: Settings of a model that scores pairs; null for other tasks.
    """

    format_version: int
    name: str
    task: Task
    source: Source
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
    multi_vector: MultiVector | None = None
    sparse: Sparse | None = None
    scoring: Scoring | None = None

    def task_of(self, route: str) -> str | None:
        """A task that uses a route, or None; the empty name is for calls without a task."""
        return next((task for task, taken in self.tasks.items() if taken == route), None)

    @property
    def dim(self) -> int:
        """Width of the task's output before truncation; for "embed", of a sentence embedding."""
        return self.width(KIND_OF_TASK[self.task])

    def width(self, kind: Kind) -> int:
        """Width of the output of one kind, which `offers` has found."""
        route = next(iter(self.routes.values()))
        return next(output.width for output in route.outputs.values() if output.kind == kind)

    def offers(self, kind: Kind) -> bool:
        """True if every route has an output of a kind: some models make several in one pass."""
        return all(any(output.kind == kind for output in route.outputs.values()) for route in self.routes.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of the bundle, without duplicates, in order of preference."""
        return next(iter(self.routes.values())).dtypes

    @property
    def default_dtype(self) -> str:
        """The default dtype: float32 if the bundle has it, else the first."""
        return FLOAT32 if FLOAT32 in self.dtypes else self.dtypes[0]

    def size_of(self, variant: Variant) -> int:
        """The size of a variant's files in bytes, which is that of its weights and little more."""
        return sum(self.files[file].size for file in variant.files)


@dataclass(frozen=True)
class Bundle:
    """An open bundle.

    Attributes:
        manifest: The manifest.
        files: The files that it lists.
    """

    manifest: Manifest
    files: BundleFiles


def open_bundle(folder: Path, verify: Verify = "once") -> Bundle:
    """Read the manifest of a bundle, check every file that it lists, and keep these files for later.

    If another process replaces the bundle meanwhile, the new one is opened.

    Args:
        folder: The bundle.
        verify: When to hash files: "once" per machine until they change, "always", or "never", which checks file type
            and size only.

    Raises:
        BundleError: The manifest is invalid, or a file is missing or damaged; the message has the remedy.
    """
    for attempt in range(TRIES):
        recover(folder)
        files = BundleFiles.open(folder)
        try:
            manifest = read_manifest(folder, files.root)
            files.check(manifest.files, verify)
        except BaseException as error:
            again = isinstance(error, BundleError) and attempt < TRIES - 1 and files.is_replaced
            files.close()  # a traceback may keep it for long
            if not again:
                raise
            continue
        if files.is_kept or not files.is_replaced:
            return Bundle(manifest, files)
    raise BundleError(f"{folder}: the bundle is replaced time and again; try again")


def read_bundle(folder: Path, verify: Verify = "once") -> Manifest:
    """Read the manifest of a bundle and check every file that it lists: file type, size and SHA-256.

    Args:
        folder: The bundle.
        verify: As `open_bundle` takes it.

    Raises:
        BundleError: The manifest is invalid, or a file is missing or damaged; the message has the remedy.
    """
    return open_bundle(folder, verify).manifest


def read_manifest(folder: Path, root: Path | None = None) -> Manifest:
    """Read and validate `embedrt.json` without checking the files that it lists.

    Args:
        folder: The bundle.
        root: The path of the folder to open files with; None is `folder`, which messages name either way.

    Raises:
        BundleError: The file is missing, or not a manifest of this format version.
    """
    path, opened = folder / MANIFEST, (root or folder) / MANIFEST
    if not opened.parent.is_dir():
        raise BundleError(f"{folder}: no such folder")
    if not os.path.lexists(opened):
        raise BundleError(
            f"{folder}: not a bundle, it has no {MANIFEST}; `embedrt export {folder}` makes one from a model"
        )
    plain_file_size(folder, MANIFEST, root)
    try:
        raw = read_json(opened)
        version = raw.get("format_version") if isinstance(raw, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            newer = version > FORMAT_VERSION
            remedy = "update embedrt" if newer else f"upgrade it with `{_export_command(folder, raw)}`"
            raise BundleError(f"{path}: expected format version {FORMAT_VERSION}, got {version}; {remedy}")
        manifest = decode(Manifest, raw, MANIFEST)
    except RecordError as error:
        raise BundleError(f"{folder}: {error}") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}; get the bundle again") from error
    _check_consistency(folder, manifest)
    return manifest


def _export_command(folder: Path, raw: Mapping[str, Any]) -> str:
    """The command that exports a bundle again from the source in its manifest, as far as that can be read."""
    source = raw.get("source")
    kind, name, revision = ((source if isinstance(source, dict) else {}).get(key) for key in ("kind", "id", "revision"))
    words = [word if isinstance(word, str) and _PLAIN_WORD.fullmatch(word) else None for word in (name, revision)]
    model = {"hub": words[0], "package": words[0] and f"package:{words[0].replace('-', '_')}"}.get(str(kind))
    at = f" --revision {words[1]}" if kind == "hub" and words[1] else ""
    return f"embedrt export {model or 'SOURCE'}{at} -o {folder} --overwrite"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `embedrt.json` into a folder that holds the other files."""
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The contents of `embedrt.json`."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def record_files(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Compute size and SHA-256 of files, as the manifest lists them."""
    return {name: FileRecord((folder / name).stat().st_size, sha256_of(folder / name)) for name in sorted(names)}


_Require: TypeAlias = Callable[[bool, str], None]
# A number in the manifest: its path, its value, its minimum and its maximum.
_Number: TypeAlias = tuple[str, float | None, float, float]


def _check_consistency(folder: Path, manifest: Manifest) -> None:
    """Check what the types cannot express: value ranges, references between fields, and required files."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise BundleError(f"{folder}: {MANIFEST}: {message}")

    for name in manifest.files:
        plain = _is_plain(name) and name not in {MANIFEST, TUNED}
        require(plain, f"files: {name!r} is not a plain path inside the bundle")
    require(bool(manifest.routes), "routes: expected at least one, got none")
    for number in _numbers(manifest):
        _check_number(number, require)
    for name, route in manifest.routes.items():
        _check_outputs(f"routes.{name}", manifest, route, require)
    require(
        manifest.truncate_dim is None or 0 < manifest.truncate_dim <= manifest.dim,
        f"truncate_dim: expected 1 to {manifest.dim}, got {manifest.truncate_dim}",
    )
    require(
        manifest.default_prompt_name is None or manifest.default_prompt_name in manifest.prompts,
        f"default_prompt_name: {manifest.default_prompt_name!r} is not among the prompts {sorted(manifest.prompts)}",
    )
    similarities = _SIMILARITIES_OF_TASK[manifest.task]
    one_of = f"one of {', '.join(similarities)} or " if similarities else ""
    require(
        manifest.similarity_fn_name is None or manifest.similarity_fn_name in similarities,
        f"similarity_fn_name: expected {one_of}null, got {manifest.similarity_fn_name!r}",
    )
    require(
        manifest.task != "multi-vector" or manifest.multi_vector is not None,
        "multi_vector: expected an object for the task 'multi-vector', got null",
    )
    expansion = None if manifest.multi_vector is None else manifest.multi_vector.expansion
    packed = any(variant.packing is not None for route in manifest.routes.values() for variant in route.variants)
    require(
        expansion is None or expansion.attend or not packed,
        "multi_vector.expansion.attend: expected true beside a packed variant, whose tokens attend to all others",
    )
    _check_scoring(manifest, require)
    dims = None if manifest.sparse is None else manifest.sparse.max_active_dims
    require(dims is None or dims > 0, f"sparse.max_active_dims: expected a positive integer or null, got {dims}")
    if manifest.vector_ranges is not None:
        _check_ranges(manifest.vector_ranges, manifest.dim, require)
    require(bool(manifest.tasks), "tasks: expected at least one, got none")
    for task, route_name in manifest.tasks.items():
        require(route_name in manifest.routes, f"tasks.{task}: unknown route {route_name!r}")
    for name, record in manifest.files.items():
        require(
            _SHA256.fullmatch(record.sha256) is not None,
            f"files.{name}.sha256: expected 64 hex digits, got {record.sha256[:80]!r}",
        )
    for name, route in manifest.routes.items():
        at = f"routes.{name}"
        width = next(output.width for output in route.outputs.values() if output.kind == KIND_OF_TASK[manifest.task])
        require(
            width == manifest.dim, f"{at}.outputs: expected width {manifest.dim}, as in the first route, got {width}"
        )
        for field in ("max_seq_length", "parity_max_seq_length"):
            length = getattr(route, field)
            require(
                route.position_limit is None or (length is not None and length <= route.position_limit),
                f"{at}.{field}: expected at most position_limit, {route.position_limit}, got {length}",
            )
        require(
            route.tokenization.pad_id < route.tokenization.embedding_rows,
            f"{at}.tokenization.pad_id: expected less than embedding_rows, {route.tokenization.embedding_rows}, got "
            f"{route.tokenization.pad_id}",
        )
        require(
            route.dtypes == manifest.dtypes,
            f"{at}.variants: expected the dtypes {', '.join(manifest.dtypes)}, as in the first route, got "
            f"{', '.join(route.dtypes)}",
        )
        for i, module in enumerate(route.modules):
            modes = module.settings.get("pooling_mode", [])
            require(
                isinstance(modes, list) and all(isinstance(mode, str) for mode in modes),
                f"{at}.modules[{i}].settings.pooling_mode: expected a list of strings, got {str(modes)[:60]!r}",
            )
        needed = {route.tokenizer, route.parity_texts, route.parity_vectors}
        needed |= {file for variant in route.variants for file in variant.files}
        missing = sorted(needed - set(manifest.files))
        require(not missing, f"files: {', '.join(missing)} missing from the list")


def _numbers(manifest: Manifest) -> Iterator[_Number]:
    """The numbers of a manifest whose ranges do not depend on each other."""
    if manifest.multi_vector is not None:
        limits = [route.position_limit for route in manifest.routes.values() if route.position_limit is not None]
        yield from _multi_vector_numbers(manifest.multi_vector, min(limits, default=MOST_TOKENS))
    for name, record in manifest.files.items():
        yield f"files.{name}.size", record.size, 0, _MOST_BYTES
    for name, route in manifest.routes.items():
        at = f"routes.{name}"
        yield f"{at}.max_seq_length", route.max_seq_length, 1, MOST_TOKENS
        yield f"{at}.parity_max_seq_length", route.parity_max_seq_length, 1, MOST_TOKENS
        yield f"{at}.position_limit", route.position_limit, 1, MOST_TOKENS
        yield f"{at}.tokenization.embedding_rows", route.tokenization.embedding_rows, 1, MOST_TOKENS
        yield f"{at}.tokenization.pad_id", route.tokenization.pad_id, 0, MOST_TOKENS
        for output_name, output in route.outputs.items():
            yield f"{at}.outputs.{output_name}.width", output.width, 1, _WIDEST
        for i, variant in enumerate(route.variants):
            yield f"{at}.variants[{i}].largest_pair", variant.largest_pair, 0, _LARGEST_PAIR
            if variant.packing is not None:
                yield from _packing_numbers(f"{at}.variants[{i}].packing", variant.packing)
            if variant.proof is not None:
                yield from _proof_numbers(f"{at}.variants[{i}].proof", variant.proof)


def _multi_vector_numbers(settings: MultiVector, most: int) -> Iterator[_Number]:
    """The numbers of the settings of a multi-vector model, of which no text has more than `most` tokens."""
    at = "multi_vector"
    yield f"{at}.query_length", settings.query_length, 1, most
    yield f"{at}.document_length", settings.document_length, 1, most
    yield f"{at}.skipped_start", settings.skipped_start, 0, most
    for name, ids in (("skipped_ids", settings.skipped_ids), ("kept_ids", settings.kept_ids or ())):
        yield from ((f"{at}.{name}[{i}]", token_id, 0, MOST_TOKENS) for i, token_id in enumerate(ids))
    if settings.expansion is not None:
        yield f"{at}.expansion.length", settings.expansion.length, 1, most
        yield f"{at}.expansion.token_id", settings.expansion.token_id, 0, MOST_TOKENS
    if settings.pooling is not None:
        yield f"{at}.pooling.pool_factor", settings.pooling.pool_factor, 1, _LARGEST
        yield f"{at}.pooling.num_protected_tokens", settings.pooling.num_protected_tokens, 0, MOST_TOKENS


def _packing_numbers(at: str, packing: Packing) -> Iterator[_Number]:
    yield f"{at}.padding_id", packing.padding_id, 0, MOST_TOKENS
    yield f"{at}.length_step", packing.length_step, 1, _LONGEST_STEP
    if packing.scratch is not None:
        yield f"{at}.scratch.heads", packing.scratch.heads, 1, _WIDEST
        yield f"{at}.scratch.size", packing.scratch.size, 1, _WIDEST


def _proof_numbers(at: str, proof: ParityReport | QualityReport | RankReport) -> Iterator[_Number]:
    yield f"{at}.texts", proof.texts, 1, MOST_TOKENS
    yield f"{at}.max_tokens", proof.max_tokens, 0, MOST_TOKENS
    yield f"{at}.max_batch_error", proof.max_batch_error, 0, _LARGEST
    if isinstance(proof, RankReport):
        yield f"{at}.parity_max_abs_error", proof.parity_max_abs_error, 0, _LARGEST
        for name in ("mean_agreement", "mean_agreement_allowed"):
            yield f"{at}.{name}", getattr(proof, name), -1, 1
        for name in ("top_agreement", "mean_score_error", "max_score_error", "mean_score_error_allowed"):
            yield f"{at}.{name}", getattr(proof, name), 0, 1
        return
    if isinstance(proof, ParityReport):
        yield f"{at}.worst_text", proof.worst_text, 0, proof.texts - 1
        yield f"{at}.tolerance", proof.tolerance, 0, 1
        yield f"{at}.max_abs_error", proof.max_abs_error, 0, _LARGEST
        yield f"{at}.max_norm_error", proof.max_norm_error, 0, _LARGEST
        names = ["min_cosine"]
    else:
        names = [f"{of}{which}_cosine" for of in ("", "parity_") for which in ("mean", "min")]
        names += ["mean_cosine_allowed", "min_cosine_allowed"]
    for name in names:
        yield f"{at}.{name}", getattr(proof, name), -_LARGEST_COSINE, _LARGEST_COSINE


def _check_number(number: _Number, require: _Require) -> None:
    name, value, least, most = number
    require(
        value is None or least <= value <= most,
        f"{name}: expected {least} to {most}, got {str(value)[:60]}",
    )


def _check_outputs(at: str, manifest: Manifest, route: Route, require: _Require) -> None:
    """Check variants and outputs of a route, which the later checks rely on."""
    require(bool(route.variants), f"{at}.variants: expected at least one, got none")
    for i, variant in enumerate(route.variants):
        known = variant.dtype in DTYPES
        require(known, f"{at}.variants[{i}].dtype: expected one of {', '.join(DTYPES)}, got {variant.dtype!r}")
        require(variant.proof is not None, f"{at}.variants[{i}].proof: missing; export the model again")
        packed = variant.layout == "packed"
        expected = "an object for layout 'packed'" if packed else f"null for layout {variant.layout!r}"
        require(packed == (variant.packing is not None), f"{at}.variants[{i}].packing: expected {expected}")
        bounded = variant.largest_pair is None or variant.dtype == "int8"
        require(bounded, f"{at}.variants[{i}].largest_pair: expected null for dtype {variant.dtype!r}")
        graph = variant.file.endswith(".onnx")
        require(graph, f"{at}.variants[{i}].file: expected a file that ends with .onnx, got {variant.file!r}")
    kind = KIND_OF_TASK[manifest.task]
    widths = [output.width for output in route.outputs.values() if output.kind == kind]
    require(len(widths) == 1, f"{at}.outputs: expected one of kind {kind!r}, got {len(widths)}")
    for name, output in route.outputs.items():
        expected = NAME_OF_KIND[output.kind]
        require(name == expected, f"{at}.outputs.{name}: expected the name {expected!r} for the kind {output.kind!r}")


def _check_scoring(manifest: Manifest, require: _Require) -> None:
    """Check the settings of a model that scores pairs."""
    if manifest.scoring is None:
        require(manifest.task != "score", "scoring: expected an object for the task 'score', got null")
    else:
        name = manifest.scoring.activation
        require(name in ACTIVATIONS, f"scoring.activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    for name, route in manifest.routes.items():
        at, template = f"routes.{name}.tokenization.template", route.tokenization.template
        forms = {} if template is None else {"plain": template.plain, "prompted": template.prompted}
        for form, pieces in forms.items():
            if pieces is None:
                continue
            found = {piece.place for piece in pieces if piece.place is not None}
            allowed = {"query", "document", *(["prompt"] if form == "prompted" else [])}
            shown = ", ".join(sorted(found)) or "none"
            require(
                {"query", "document"} <= found <= allowed,
                f"{at}.{form}: expected places of query and document, got {shown}",
            )


def _check_ranges(ranges: tuple[tuple[float, ...], ...], dim: int, require: _Require) -> None:
    shape = [len(row) for row in ranges]
    require(shape == [dim, dim], f"vector_ranges: expected 2 rows of {dim} numbers, got rows of {shape}")
    for i, (low, high) in enumerate(zip(*ranges, strict=True)):
        require(
            -_LARGEST <= low <= high <= _LARGEST,
            f"vector_ranges: coordinate {i}: expected finite float32 numbers, minimum <= maximum, got {low} and {high}",
        )


def _is_plain(name: str) -> bool:
    """Return True if a path is printable and names one file inside the folder on every platform."""
    parts = PurePosixPath(name).parts
    canonical = bool(parts) and name == "/".join(parts) and not {"..", "/"} & set(parts)
    return canonical and name.isprintable() and not set('\\:*?"<>|') & set(name)
