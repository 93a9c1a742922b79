"""Files that some engines need beside the model folder and the bundle, made from these two without a network.

`worker` loads this file by its path, as `peers`.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedrt.bench.peers import Files

_HUB_FOLDER = "models--sentence-transformers--all-MiniLM-L6-v2"


def limited(files: "Files", target: Path) -> None:
    """Copy the bundle for engines that look for the maximum number of tokens in tokenizer_config.json.

    Many models say 512 there, where sentence-transformers truncates at the 256 of sentence_bert_config.json.
    """
    shutil.copytree(files.bundle, target)
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    limit = files.route["max_seq_length"]
    path.write_text(json.dumps(settings | ({"model_max_length": limit} if limit else {})), encoding="utf-8")


def hub(files: "Files", target: Path) -> None:
    """Make a hub cache that holds the model, for an engine that knows no other way to it."""
    revision = "0" * 40
    repo = target / "hub" / _HUB_FOLDER
    shutil.copytree(files.source, repo / "snapshots" / revision)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision, encoding="utf-8")


def static(files: "Files", target: Path) -> None:
    """Distill a table of token vectors from the model."""
    from model2vec.distill import distill

    distill(str(files.source), device="cpu", pca_dims=None).save_pretrained(target)


def optimum(files: "Files", target: Path) -> None:
    """Export the model by the ONNX backend of sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    options = {"provider": "CPUExecutionProvider", "export": True}
    model = SentenceTransformer(str(files.source), device="cpu", backend="onnx", model_kwargs=options)
    model.save_pretrained(str(target))
