"""The options of a bulk job: what decides its result, and what only decides its course."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OnError = Literal["fail", "null", "skip"]
"""Treatment of a row that cannot be read or computed: the job fails, its vector is null, or it is left out."""
LongTexts = Literal["truncate", "error", "mean", "chunks"]
"""Treatment of a text that is too long: truncated, an error, the mean of its windows, or a row for each window."""
VectorType = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
PartFormat = Literal["parquet", "arrow", "jsonl", "npy", "lance"]
Dedupe = Literal["none", "window", "all"]
Engine = Literal["local", "ray", "spark"]


@dataclass(frozen=True)
class Meaning:
    r"""Options that decide the result. A job goes on only with the same ones.

    Attributes:
        text: The text columns, in order; for a reranker two: query and document. Empty takes the only text column.
        template: A text with fields, as "{title}\n{body}"; None joins nothing, and needs one column.
        id: The column with ids that are unique; None numbers the rows.
        keep: Columns of the source to keep, in order; None keeps all.
        vector: The name of the column with the result.
        prompt_name: The model's prompt to put before every text.
        prompt: A prompt of the user's own.
        task: "query" or "document", for models that treat these differently.
        normalize: Scale vectors to length 1, after truncation.
        dim: Coordinates to keep; None takes the model's.
        vector_type: The number format of dense vectors.
        fixed_size: Whether dense vectors are fixed-size lists, which some readers lack.
        long_texts: What becomes of texts that are too long.
        on_error: What becomes of rows that cannot be read or computed.
        with_tokens: Whether columns "n_tokens" and "truncated" are added.
        part_format: The format of the parts.
        part_rows: Rows of a part, at most; small files are gathered.
    """

    text: tuple[str, ...] = ()
    template: str | None = None
    id: str | None = None
    keep: tuple[str, ...] | None = None
    vector: str = "embedding"
    prompt_name: str | None = None
    prompt: str | None = None
    task: str | None = None
    normalize: bool = False
    dim: int | None = None
    vector_type: VectorType = "float32"
    fixed_size: bool = True
    long_texts: LongTexts = "truncate"
    on_error: OnError = "fail"
    with_tokens: bool = False
    part_format: PartFormat = "parquet"
    part_rows: int = 16384


@dataclass(frozen=True)
class ModelChoice:
    """The model of a job; a string and plain options, so that workers on other machines can open it.

    Attributes:
        source: A bundle folder, a name in the local store, or a hub id.
        device: The device, as `Embedder` takes it.
        dtype: The dtype; None takes the bundle's usual one.
        threads: Threads to use; None takes all cores that the process may use.
        max_tokens: Token budget of a batch.
        max_seq_length: Maximum tokens of a text; None takes the model's.
        local_files_only: Never touch the network.
    """

    source: str
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    max_tokens: int | None = None
    max_seq_length: int | None = None
    local_files_only: bool = False


@dataclass(frozen=True)
class Course:
    """Options that do not change the result: a run may have others than the one before.

    Attributes:
        shard: (i, n): compute every n-th unit, from the i-th on, 1 to n; None computes all.
        dedupe: Encode equal texts once in a "window", in "all" of the job by a table on disk, or "none".
        cache: A folder with vectors by fingerprint and text, for jobs to come; None keeps none.
        restart: Whether to start over if something was changed.
        progress: Whether to show a progress bar.
        json_log: Whether to log every unit as a line of JSON.
        engine: "local", "ray" or "spark".
        engine_options: Options of the engine, such as {"address": "auto", "workers": 16}.
    """

    shard: tuple[int, int] | None = None
    dedupe: Dedupe = "window"
    cache: str | None = None
    restart: bool = False
    progress: bool = True
    json_log: bool = False
    engine: Engine = "local"
    engine_options: Mapping[str, str | int] = field(default_factory=dict)
