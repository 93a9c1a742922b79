"""Writes tests/reference/clients.json and docs/clients.md from errors that tests of clients measured.

`make clients-table` runs it. Arguments: files that the tests wrote where EMBEDRT_CLIENTS_TABLE named them, with one
JSON object a line.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.kit.clients import PAGE, TABLE, Row, merge, read_rows, render


def read_table() -> list[Row]:
    """The rows of the table; none if there is no table."""
    if not TABLE.exists():
        return []
    return [Row(**row) for row in json.loads(TABLE.read_bytes())]


def main(paths: list[Path]) -> None:
    """Merges the files into the table and writes the page."""
    rows = merge(read_table(), [row for path in paths for row in read_rows(path)])
    lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    PAGE.write_text(render(rows), encoding="utf-8")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
