"""LanceDB's registered function, in a table."""

import json
import sys
import tempfile

import lancedb
import numpy as np
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

texts, target = json.loads(sys.argv[1]), sys.argv[2]
function = get_registry().get("sentence-transformers").create(name="all-MiniLM-L6-v2", device="cpu", normalize=False)


class Row(LanceModel):  # type: ignore[misc]
    """A row of the table."""

    text: str = function.SourceField()
    vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]


with tempfile.TemporaryDirectory() as folder:
    table = lancedb.connect(folder).create_table("texts", schema=Row)
    table.add([{"text": text} for text in texts])
    assert table.search(texts[1]).limit(1).to_list()[0]["text"] == texts[1]
    rows = {row["text"]: row["vector"] for row in table.to_arrow().to_pylist()}
np.save(target, [rows[text] for text in texts])
