"""Files that some engines need beside the model folder and the bundle, made from these two without a network.

Each is made in a process of its own, as `python -m benchmarks.prepare NAME MODEL BUNDLE PREPARED`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.engines import ENGINES
from benchmarks.gguf_file import write_gguf
from benchmarks.peers import HUB_ID, Files
from benchmarks.process import OFFLINE, ROOT


def prepare(names: Iterable[str], files: Files) -> dict[str, str]:
    """Makes what engines need, unless it is there.

    Args:
        names: The engines.
        files: `files.prepared` is where it goes.

    Returns:
        Why an engine cannot run, by engine.
    """
    failed: dict[str, str] = {}
    errors: dict[str, str | None] = {}
    for name in names:
        need, variable = ENGINES[name].needs, ENGINES[name].python
        if need is None:
            continue
        if need not in errors:
            python = sys.executable if variable is None else os.environ[variable]
            errors[need] = None if (files.prepared / need).exists() else _make(need, files, python)
        if (error := errors[need]) is not None:
            failed[name] = f"could not make {need}: {error}"
    return failed


def _make(need: str, files: Files, python: str) -> str | None:
    files.prepared.mkdir(parents=True, exist_ok=True)
    command = [python, "-m", "benchmarks.prepare", need, str(files.model), str(files.bundle), str(files.prepared)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **OFFLINE}, capture_output=True, text=True, errors="replace", check=False
    )
    return done.stderr.strip()[-500:] if done.returncode else None


def _limited(files: Files, target: Path) -> None:
    """The bundle, for engines that look for the limit of tokens in tokenizer_config.json: as published, that says 512
    where sentence-transformers cuts at 256.
    """
    shutil.copytree(files.bundle, target)
    limit = json.loads((files.model / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"model_max_length": limit}), encoding="utf-8")


def _hub(files: Files, target: Path) -> None:
    """A hub cache that holds the model, for an engine that knows no other way to it."""
    revision = "0" * 40
    repo = target / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(files.model, repo / "snapshots" / revision)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision, encoding="utf-8")


def _static(files: Files, target: Path) -> None:
    from model2vec.distill import distill

    distill(str(files.model), device="cpu", pca_dims=None).save_pretrained(target)


def _optimum(files: Files, target: Path) -> None:
    from sentence_transformers import SentenceTransformer

    options = {"provider": "CPUExecutionProvider", "export": True}
    SentenceTransformer(str(files.model), device="cpu", backend="onnx", model_kwargs=options).save_pretrained(
        str(target)
    )


_PREPARATIONS: dict[str, Callable[[Files, Path], None]] = {
    "limited": _limited,
    "hub": _hub,
    "gguf-F32": lambda files, target: write_gguf(files.model, target, "F32"),
    "gguf-Q8_0": lambda files, target: write_gguf(files.model, target, "Q8_0"),
    "static": _static,
    "optimum": _optimum,
}


def main() -> None:
    """Makes one of them, whole or not at all."""
    need, *paths = sys.argv[1:]
    files = Files(*map(Path, paths))
    partial = files.prepared / f"partial-{need}"
    if partial.is_dir():
        shutil.rmtree(partial)
    _PREPARATIONS[need](files, partial)
    partial.rename(files.prepared / need)


if __name__ == "__main__":
    main()
