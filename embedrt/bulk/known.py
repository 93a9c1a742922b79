"""Results that are there already, by hash: those of the job (`--dedupe all`) and those of all jobs (`--cache`)."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedrt.bulk.transform import Known
from embedrt.errors import BulkError

_CACHE = "results.sqlite"
_BATCH = 500  # variables of a statement
_WAIT_SECONDS = 120.0
"""Jobs that share a cache write in turn."""


class Table:
    """Results in a file of SQLite. Safe to use from several threads, and from several processes of one machine.

    Args:
        path: The file.

    Raises:
        BulkError: The file is damaged, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, _WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        with contextlib.ExitStack() as opening:
            opening.callback(self._connection.close)
            with self._explained():
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._connection.execute("CREATE TABLE IF NOT EXISTS results(hash BLOB PRIMARY KEY, result BLOB)")
            opening.pop_all()

    def find(self, hashes: Sequence[bytes]) -> list[bytes | None]:
        """The result for each hash; None if there is none."""
        found: dict[bytes, bytes] = {}
        with self._lock, self._explained():
            for start in range(0, len(hashes), _BATCH):
                some = hashes[start : start + _BATCH]
                query = f"SELECT hash, result FROM results WHERE hash IN ({','.join('?' * len(some))})"  # noqa: S608
                found.update(self._connection.execute(query, some))
        return [found.get(one) for one in hashes]

    def add(self, hashes: Sequence[bytes], results: Sequence[bytes]) -> None:
        """Store results, all or none; others may have stored the same meanwhile."""
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                rows = zip(hashes, results, strict=True)
                self._connection.executemany("INSERT OR IGNORE INTO results VALUES (?, ?)", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise BulkError(
                f"{self._path}: the table of results failed: {error}; make room, or delete the file, which only saves "
                "time"
            ) from error


class Both:
    """Two tables, of which the first is asked first.

    Args:
        first: The table of the job.
        second: The cache.
    """

    def __init__(self, first: Known, second: Known) -> None:
        self._tables = first, second

    def find(self, hashes: Sequence[bytes]) -> list[bytes | None]:
        """The result for each hash; None if there is none."""
        found = list(self._tables[0].find(hashes))
        missing = [i for i, result in enumerate(found) if result is None]
        for i, result in zip(missing, self._tables[1].find([hashes[i] for i in missing]), strict=True):
            found[i] = result
        return found

    def add(self, hashes: Sequence[bytes], results: Sequence[bytes]) -> None:
        """Store results in both."""
        for table in self._tables:
            table.add(hashes, results)


@contextlib.contextmanager
def open_known(of_job: Path | None, cache: Path | None) -> Iterator[Known | None]:
    """The tables of a run, open for a `with` block; None if there is none.

    Args:
        of_job: The file for results of the job, or None.
        cache: The folder for results of all jobs, or None.
    """
    with contextlib.ExitStack() as stack:
        paths = [path for path in (of_job, None if cache is None else cache / _CACHE) if path is not None]
        tables = [stack.enter_context(contextlib.closing(Table(path))) for path in paths]
        yield None if not tables else tables[0] if len(tables) == 1 else Both(*tables)
