"""`run`: a bulk job from its source to its parts, begun or resumed."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedrt.bulk import sources
from embedrt.bulk.engines.units import lines
from embedrt.bulk.formats import FORMATS
from embedrt.bulk.job import Job, Wanted, open_job
from embedrt.bulk.known import open_known
from embedrt.bulk.manifest import Line
from embedrt.bulk.names import without_secrets
from embedrt.bulk.options import (
    Course,
    Dedupe,
    Engine,
    LongTexts,
    Meaning,
    ModelChoice,
    OnError,
    PartFormat,
    VectorType,
)
from embedrt.bulk.pipeline import Pipeline
from embedrt.bulk.plan import SourceFile
from embedrt.bulk.progress import showing
from embedrt.bulk.signals import ending, finishing
from embedrt.bulk.task import JOB_FOLDER, Task, read_errors
from embedrt.bulk.transform import Facts, Transform
from embedrt.bundle.atomic import replace_files
from embedrt.bundle.staging import staging
from embedrt.errors import BulkError
from embedrt.inputs.values import one_of, positive

Source = str | os.PathLike[str]
_ERRORS, _STDIN = "errors.jsonl", "_stdin"


@dataclass(frozen=True)
class Report:
    """The outcome of a run.

    Attributes:
        target: The folder with the parts.
        parts: Units of the run that have a part.
        units: Units of the run: of the job, or of the shard.
        done: Numbers about all these parts.
        made: Numbers about the parts that this run made.
        seconds: Seconds of the run.
        stopped: The signal that ended the run early, or None.
    """

    target: Path
    parts: int
    units: int
    done: Facts
    made: Facts
    seconds: float
    stopped: int | None

    @property
    def is_whole(self) -> bool:
        """True if every unit has a part."""
        return self.parts == self.units


def run(
    source: Source | Sequence[Source],
    target: Source,
    *,
    model: str | os.PathLike[str],
    text: str | Sequence[str] = (),
    template: str | None = None,
    id: str | None = None,  # noqa: A002 - the name of the option
    keep: Sequence[str] | None = None,
    vector: str = "embedding",
    prompt_name: str | None = None,
    prompt: str | None = None,
    task: str | None = None,
    normalize: bool = False,
    dim: int | None = None,
    vector_type: VectorType = "float32",
    fixed_size: bool = True,
    long_texts: LongTexts = "truncate",
    on_error: OnError = "fail",
    with_tokens: bool = False,
    part_format: PartFormat = "parquet",
    part_rows: int = 16384,
    source_format: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    max_tokens: int | None = None,
    max_seq_length: int | None = None,
    local_files_only: bool = False,
    shard: tuple[int, int] | None = None,
    dedupe: Dedupe = "window",
    cache: Source | None = None,
    restart: bool = False,
    progress: bool = True,
    json_log: bool = False,
    engine: Engine = "local",
    engine_options: Mapping[str, str | int] | None = None,
) -> Report:
    r"""Encode the texts of files into files of vectors, every row exactly once. Run it again to resume.

    SIGINT and SIGTERM end the run after the unit that it computes.

    Args:
        source: Files, folders, glob patterns or URLs; "-" for standard input.
        target: The folder for the parts.
        model: A bundle folder, a name in the local store, or a hub id.
        text: The text columns, in order; for a reranker two: query and document. Empty takes the only text column.
        template: A text with fields, as "{title}\n{body}"; None joins nothing, and needs one column.
        id: The column with ids that are unique; None numbers the rows.
        keep: Columns of the source to keep, in order; None keeps all.
        vector: The name of the column with the result.
        prompt_name: The model's prompt to put before every text.
        prompt: A prompt of your own.
        task: "query" or "document", for models that treat these differently.
        normalize: Scale vectors to length 1, after truncation.
        dim: Coordinates to keep; None takes the model's.
        vector_type: The number format of dense vectors.
        fixed_size: Whether dense vectors are fixed-size lists, which some readers lack.
        long_texts: "truncate", "error", "mean" of the windows, or "chunks", a row for each window.
        on_error: Rows that cannot be read or computed: "fail" ends the job, "null" gives them a null vector, "skip"
            leaves them out.
        with_tokens: Whether columns "n_tokens" and "truncated" are added.
        part_format: The format of the parts.
        part_rows: Rows of a part, at most; small files are gathered.
        source_format: The format of the source; None goes by the endings of the names.
        device: As in `Embedder`.
        dtype: As in `Embedder`.
        threads: As in `Embedder`.
        max_tokens: As in `Embedder`.
        max_seq_length: Maximum tokens of a text; None takes the model's.
        local_files_only: Never touch the network.
        shard: (i, n): compute every n-th unit, from the i-th on, 1 to n; None computes all.
        dedupe: Encode equal texts once in a "window" of `part_rows`, in "all" of the job by a table on disk, or "none".
        cache: A folder with vectors by fingerprint and text, for jobs to come; None keeps none.
        restart: Whether to start over if something was changed.
        progress: Whether to show a progress bar, where standard error is a terminal.
        json_log: Whether to write every part as a line of JSON to standard error.
        engine: "local", "ray" or "spark".
        engine_options: Options of the engine, such as `{"address": "auto", "workers": 16}`.

    Returns:
        Numbers of the run, and of all parts.

    Raises:
        BulkError: A row has no result, something was changed since the run before, or another run uses the folder.
        ModelNotFoundError: The model cannot be found.
        MissingDependencyError: An optional package is not installed.
        ValueError: Another argument is out of range, or does not fit the others.
        KeyboardInterrupt: SIGINT ended the run early.
        SystemExit: SIGTERM ended the run early; the status is 143.

    Example:
        >>> embedrt.bulk.run("articles.parquet", "vectors/", model="all-MiniLM-L6-v2", text="body")
    """
    meaning = Meaning(
        text=(text,) if isinstance(text, str) else tuple(text),
        template=template,
        id=id,
        keep=None if keep is None else tuple(keep),
        vector=vector,
        prompt_name=prompt_name,
        prompt=prompt,
        task=task,
        normalize=normalize,
        dim=dim,
        vector_type=vector_type,
        fixed_size=fixed_size,
        long_texts=long_texts,
        on_error=on_error,
        with_tokens=with_tokens,
        part_format=part_format,
        part_rows=part_rows,
    )
    choice = ModelChoice(os.fspath(model), device, dtype, threads, max_tokens, max_seq_length, local_files_only)
    course = Course(
        shard=shard,
        dedupe=dedupe,
        cache=None if cache is None else os.fspath(cache),
        restart=restart,
        progress=progress,
        json_log=json_log,
        engine=engine,
        engine_options=engine_options or {},
    )
    named = [source] if isinstance(source, str | os.PathLike) else list(source)
    report = run_job([os.fspath(one) for one in named], Path(target), choice, meaning, course, source_format)
    if report.stopped is not None:
        raise ending(report.stopped)
    return report


def run_job(
    source: Sequence[str],
    target: Path,
    model: ModelChoice,
    meaning: Meaning,
    course: Course,
    source_format: str | None = None,
) -> Report:
    """Begin or resume a job, as `run`; a signal is in the report."""
    check_options(meaning, course)
    check_places(source, target)
    files = sources.find(source, source_format, target / _STDIN)
    if inside := [file for file in files if _is_below(file.path, target) and not _is_below(file.path, target / _STDIN)]:
        raise ValueError(f"target: expected a folder that has no source file, got {inside[0].path}; choose another one")
    transform = Transform(model, meaning, dedupe=course.dedupe != "none")
    return run_files(files, target, transform, course)


def run_files(files: Sequence[SourceFile], target: Path, transform: Transform, course: Course) -> Report:
    """Begin or resume a job of files that are found."""
    started = time.monotonic()
    wanted = Wanted(
        transform.model.source,
        transform.fingerprint,
        transform.dtype,
        transform.model.max_seq_length,
        transform.meaning,
    )
    with open_job(target, wanted, files, _pieces, shard=course.shard, restart=course.restart) as job:
        with (
            finishing(_say) as stop,
            showing(job, bar=course.progress and sys.stderr.isatty(), json_log=course.json_log) as shown,
        ):

            def commit(line: Line) -> None:
                job.commit(line)
                shown.made(line)

            tasks = job.tasks(commit)
            if course.engine == "local":
                with open_known(_job_table(job, course), None if course.cache is None else Path(course.cache)) as known:
                    Pipeline(transform, tasks, known, commit, stop.__bool__, shown).run()
            else:
                _compute_there(transform, tasks, course, commit, stop.__bool__)
        if job.parts < job.units and not stop:
            raise BulkError(f"{target}: {job.units - job.parts} of {job.units} parts are missing; run it again")
        if job.parts == len(job.plan):
            collect_errors(target)
        return Report(target, job.parts, job.units, job.done, job.made, time.monotonic() - started, stop.number)


def collect_errors(target: Path) -> int:
    """Join the errors of all units, in order, in one file; return their number."""
    count = 0
    with staging(target / JOB_FOLDER / _ERRORS) as fresh:
        with (fresh / _ERRORS).open("w", encoding="utf-8") as lines:
            for line in read_errors(target):
                lines.write(line)
                count += 1
        if count:
            replace_files(fresh, target / JOB_FOLDER)
    if not count:
        (target / JOB_FOLDER / _ERRORS).unlink(missing_ok=True)
    return count


def check_options(meaning: Meaning, course: Course) -> None:
    """Check options that no type keeps right.

    Raises:
        ValueError: One is out of range, or does not fit the others.
    """
    for name, kind in (
        ("vector_type", VectorType),
        ("long_texts", LongTexts),
        ("on_error", OnError),
        ("part_format", PartFormat),
    ):
        one_of(getattr(meaning, name), kind, name)
    one_of(course.dedupe, Dedupe, "dedupe")
    one_of(course.engine, Engine, "engine")
    positive(meaning.part_rows, "part_rows")
    if meaning.dim is not None:
        positive(meaning.dim, "dim")
    if meaning.prompt is not None and meaning.prompt_name is not None:
        raise ValueError("prompt: expected a prompt or the name of one, got both; leave one out")
    if not meaning.vector:
        raise ValueError("vector: expected a name, got ''")
    if course.shard is not None:
        _check_shard(course.shard)
    if course.engine != "local" and (course.shard or course.dedupe == "all" or course.cache):
        raise ValueError(
            f"engine: {course.engine!r} spreads the units itself, and workers share no table; leave out shard, cache "
            "and dedupe='all'"
        )


def check_places(source: Sequence[str], target: Path) -> None:
    """Check that a job does not read what it writes.

    Raises:
        ValueError: The target is a URL, or lies in a folder of the source.
    """
    if "://" in str(target) or ":/" in str(target)[2:]:  # `Path` joins the slashes
        raise ValueError(
            f"target: expected a folder, got the URL {without_secrets(str(target))!r}; write to a folder, then copy it"
        )
    for one in source:
        if "://" not in one and Path(one).is_dir() and _is_below(target, Path(one)):
            raise ValueError(f"target: expected a folder outside of the source {one}, got {target}")


def _is_below(path: Source, folder: Path) -> bool:
    """Return True if a path is a folder or something in it."""
    return "://" not in str(path) and Path(path).resolve().is_relative_to(folder.resolve())


def _check_shard(shard: tuple[int, int]) -> None:
    index, count = shard
    if not 1 <= index <= count:
        raise ValueError(f"shard: expected i/n with i from 1 to n, got {index}/{count}")


def _pieces(file: SourceFile, rows: int) -> Iterator[tuple[int, int]]:
    filesystem, path = sources.open_filesystem(file.path)
    return FORMATS[file.format].pieces(path, filesystem, rows)


def _job_table(job: Job, course: Course) -> Path | None:
    """The table of results of a run: each shard has its own."""
    if course.dedupe != "all":
        return None
    name = "" if course.shard is None else f"-{course.shard[0]}-of-{course.shard[1]}"
    return job.target / JOB_FOLDER / f"results{name}.sqlite"


def _compute_there(
    transform: Transform,
    tasks: Iterable[Task],
    course: Course,
    commit: Callable[[Line], None],
    stopped: Callable[[], bool],
) -> None:
    """Compute units on the workers of an engine."""

    def until_stopped() -> Iterator[Task]:
        for task in tasks:
            if stopped():
                return
            yield task

    with contextlib.closing(lines(course.engine, transform, until_stopped(), course.engine_options)) as found:
        for line in found:
            commit(line)


def _say(message: str) -> None:
    """Write a message to standard error; a signal may come while it is written to."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, f"embedrt: {message}\n".encode())
