"""Millions of rows through plan, manifest and parts, with a stub in place of the model: memory, and the next run.

    python -m tests.bulk.scale --rows 10000000

Prints lines of JSON: the peak memory after 2 % of the units, after all of them, and the seconds of a run after that,
which must read nothing.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedrt.bulk import formats
from embedrt.bulk.driver import run_files
from embedrt.bulk.encoders import Advance
from embedrt.bulk.options import Course, Meaning, ModelChoice
from embedrt.bulk.plan import SourceFile
from embedrt.bulk.rows import Places
from embedrt.bulk.sources import state
from embedrt.bulk.transform import Facts, Known, Transformed

_FILES, _BATCH_ROWS = 100, 16384


class Numbers:
    """A format whose files have nothing but numbered rows.

    Args:
        rows: Rows of every file.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.reads = 0

    def pieces(self, path: str, filesystem: Any, rows: int) -> Iterator[tuple[int, int]]:
        del path, filesystem
        for start in range(0, self._rows, rows):
            yield min(rows, self._rows - start), 0

    def schema(self, path: str, filesystem: Any) -> Any:
        del path, filesystem
        return pa.schema([pa.field("id", pa.int64())])

    def stream(
        self, file: SourceFile, path: str, filesystem: Any, *, row: int, offset: int, columns: Sequence[str] | None
    ) -> Iterator[Any]:
        del path, filesystem, offset, columns
        self.reads += 1
        first = int(file.name) * self._rows
        for start in range(row, self._rows, _BATCH_ROWS):
            ids = np.arange(first + start, first + min(start + _BATCH_ROWS, self._rows))
            yield pa.record_batch({"id": pa.array(ids)})


class Stub:
    """A transform whose vector of a row is its id.

    Args:
        meaning: The options.
    """

    fingerprint, dtype, most_rows = "0" * 64, "float32", 16384

    def __init__(self, meaning: Meaning) -> None:
        self.model = ModelChoice("stub")
        self.meaning = meaning
        self._type = pa.list_(pa.float32(), 1)

    def schema(self, source: Any) -> Any:
        return pa.schema([*source, pa.field("embedding", self._type)])

    def __call__(
        self, table: Any, *, places: Places, first_row: int, known: Known | None, advance: Advance
    ) -> Transformed:
        del places, first_row, known, advance
        values = pa.array(table.column("id").to_numpy().astype(np.float32))
        made = table.append_column("embedding", pa.FixedSizeListArray.from_arrays(values, 1))
        return Transformed(made, [], Facts(table.num_rows, table.num_rows, table.num_rows))


def peak_mb() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(folder: Path, rows: int, part_rows: int) -> Iterator[dict[str, Any]]:
    """Run a job for a part of its units, for all, and once more; yields the measurements."""
    numbers = Numbers(rows // _FILES)
    formats.FORMATS["numbers"] = numbers  # type: ignore[index]
    files = []
    for i in range(_FILES):
        path = folder / f"{i:03d}"
        path.write_text(str(i))
        files.append(SourceFile(str(path), path.name, "numbers", *state(str(path))))
    stub: Any = Stub(Meaning(part_rows=part_rows))
    for name, shard in (("a part", (1, 50)), ("all", None), ("again", None)):
        numbers.reads, started = 0, time.monotonic()
        report = run_files(files, folder / "out", stub, Course(shard=shard, progress=False))
        yield {
            "run": name,
            "units": report.units,
            "rows": report.done.rows,
            "made": report.made.rows,
            "reads": numbers.reads,
            "seconds": round(time.monotonic() - started, 2),
            "peak_mb": round(peak_mb(), 1),
        }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--part-rows", type=int, default=16384)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in run(Path(folder), arguments.rows, arguments.part_rows):
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
