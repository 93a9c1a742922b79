"""Parts of a results file, and of its table, that the benchmarks have in common."""

import datetime
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.corpus import load_corpus
from benchmarks.repository import commit
from embedrt.bench import environment
from embedrt.bench.record import FORMAT, machine_name, machine_title


def circumstances(kind: str, command: Sequence[str]) -> dict[str, Any]:
    """The record of a run without its results.

    Args:
        kind: The kind of record.
        command: The words of the command.
    """
    found = environment.machine()
    return {
        "format": FORMAT,
        "kind": kind,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "commit": commit(),
        "machine": {"name": machine_name(found), "title": machine_title(found), **found},
        "versions": environment.versions(),
        "corpus": load_corpus().origin,
    }


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Write a record into a folder, under its date, machine and kind."""
    path = folder / f"{record['date'][:10]}-{record['machine']['name']}-{record['kind']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def heading(title: str, record: Mapping[str, Any]) -> Iterator[str]:
    """The title of a record's tables, its versions and its command, in Markdown."""
    versions = ", ".join(f"{package} {found}" for package, found in record["versions"].items())
    yield f"## {title}: {record['machine']['title']}"
    yield ""
    yield f"- Versions: Python {record['machine']['python']}, {versions}"
    yield f"- Measured {record['date'][:10]} with `{record['command']}`; file `benchmarks/results/{record['file']}`"


def one_line(error: str) -> str:
    """The beginning of an error, as a table in Markdown can hold it."""
    return " ".join(error.split()).replace("|", "\\|")[:120]
