"""Records and schemas of parts whose format has no room for them: a small file beside the part.

It ends with ".json", is renamed before the part, and has the metadata of the job too.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedrt.bulk.arrow import pa


def folder_beside(path: Path) -> Path:
    """The folder for the files that are renamed before an open part."""
    folder = path.parent.parent / "beside"
    folder.mkdir(exist_ok=True)
    return folder


def write_record(path: Path, schema: Any, record: Mapping[str, Any]) -> None:
    """Write the file beside an open part."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    encoded = base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()
    content = json.dumps({"part": record, "metadata": metadata, "schema": encoded}, ensure_ascii=False)
    (folder_beside(path) / f"{path.name}.json").write_text(content + "\n", encoding="utf-8")


def read_record(path: Path) -> Any:
    """The record of a part; None if there is none."""
    try:
        content = json.loads(path.with_name(f"{path.name}.json").read_bytes())
    except FileNotFoundError:
        return None
    return content.get("part") if isinstance(content, dict) else None


def read_schema(path: Path) -> Any:
    """The `pyarrow.Schema` of a part, with the metadata of the job.

    Raises:
        OSError: The file beside the part is missing or damaged.
    """
    beside = path.with_name(f"{path.name}.json")
    try:
        content = json.loads(beside.read_bytes())
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["schema"])))
        return schema.with_metadata(content["metadata"])
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise OSError(f"{beside}: cannot be read: {error}") from error
