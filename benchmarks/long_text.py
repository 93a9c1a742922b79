"""One text of 8,192 tokens through a model with the shape of ModernBERT base: time, and memory over the model.

    python -m benchmarks.long_text --keep DIR                             # 8,192 tokens, with every engine
    python -m benchmarks.long_text --keep DIR --lengths 512 2048 8192

Each engine has a fresh process in every round. It loads, encodes short texts that read all pages of the word
embeddings, and then the long one; memory is the peak meanwhile over what was resident before.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.models import packaged
from benchmarks.repository import ROOT
from embedrt.bench.engines import OWN, PEERS, REFERENCE, Engine, own_engines
from embedrt.bench.model import export
from embedrt.bench.peers import Files
from embedrt.bench.process import Worker, WorkerError, engine_worker
from embedrt.bench.record import spread
from embedrt.bench.results import by_round
from embedrt.errors import ExportError

TOKENS = 8192
_WORDS = 60
TITLE = "ModernBERT base with seeded random weights: 22 layers, 768 wide, an attention window in two of three"
ENGINES: dict[str, Engine] = {REFERENCE: PEERS[REFERENCE], **own_engines(["cpu"], ["float32"])}


@dataclass
class LongText:
    """One engine on the long text.

    Attributes:
        error: Reason of a failure, or None.
        seconds: By round.
        other_cores: Cores that everything but the engine used meanwhile, by round; None where that is not known.
        over_mb: Peak memory meanwhile over what was resident before, in 10^6 bytes, by round.
        before_mb: What was resident before, by round.
        vector: The vector of the last round.
    """

    error: str | None = None
    seconds: list[float] = field(default_factory=list)
    other_cores: list[float | None] = field(default_factory=list)
    over_mb: list[float] = field(default_factory=list)
    before_mb: list[float] = field(default_factory=list)
    vector: list[float] = field(default_factory=list)


def measure(kept: Path, rounds: int, tokens: int = TOKENS) -> dict[str, LongText]:
    """Measure each engine that is installed.

    Args:
        kept: Where the model and its bundle stay.
        rounds: Turns of each engine.
        tokens: Tokens of the text.
    """
    found = {name: LongText() for name, engine in ENGINES.items() if engine.version is not None}
    try:
        model = _model(kept / "modernbert")
        bundle = kept / f"modernbert-{_exporter()}"  # the export takes minutes
        if not bundle.is_dir():
            export(str(model), ["float32"], bundle, offline=True)
    except (ExportError, subprocess.CalledProcessError) as error:
        for result in found.values():
            result.error = str(error)
        return found
    files = Files(model, bundle, kept)
    vocabulary = (model / "vocab.txt").read_text(encoding="utf-8")
    text, words = long_text(vocabulary, tokens), vocabulary_texts(vocabulary)
    for _ in range(rounds):
        for name, result in found.items():
            if result.error is None:
                try:
                    with closing(engine_worker(ENGINES[name], files)) as worker:
                        _turn(worker, words, text, result)
                except (WorkerError, OSError) as error:
                    result.error = str(error)
    return found


def _turn(worker: Worker, words: list[str], text: str, result: LongText) -> None:
    worker.ask("one_by_one", texts=words)  # not as a batch, whose buffers the long text could use
    answer = worker.ask("memory", texts=[text])
    result.seconds.append(answer["seconds"])
    result.other_cores.append(answer["other_cores"])
    result.vector = answer["vector"]
    if answer["over_rss_mb"] is not None:
        result.over_mb.append(answer["over_rss_mb"])
        result.before_mb.append(answer["before_rss_mb"])


def long_text(vocabulary: str, tokens: int) -> str:
    """A text of words that are in a vocabulary, with the two special tokens as long as asked for."""
    words = [word for word in vocabulary.split("\n") if word.isascii() and word.isalnum()]
    return " ".join(random.Random(tokens).choices(words, k=tokens - 2))


def vocabulary_texts(vocabulary: str) -> list[str]:
    """Short texts of every tenth word of a vocabulary: Linux maps the pages around one that is read, too."""
    words = [word for word in vocabulary.split("\n")[::10] if word.isalnum()]
    return [" ".join(words[start : start + _WORDS]) for start in range(0, len(words), _WORDS)]


def time_ratio(found: Mapping[str, LongText]) -> float | None:
    """embedrt's time relative to that of sentence-transformers: the median over the rounds."""
    own, theirs = found.get(OWN), found.get(REFERENCE)
    if own is None or theirs is None:
        return None
    ratios, _ = by_round(own.seconds, own.other_cores, theirs.seconds, theirs.other_cores)
    return median(ratios) if ratios else None


def as_record(found: Mapping[str, LongText], tokens: int = TOKENS) -> dict[str, Any]:
    """The results as plain data."""
    ratio = time_ratio(found)
    return {
        "model": TITLE,
        "tokens": tokens,
        "time_ratio": None if ratio is None else round(ratio, 3),
        "max_abs_error": _error(found),
        "engines": {
            name: {
                "error": result.error,
                "time_s": spread(result.seconds),
                "over_rss_mb": spread(result.over_mb),
                "before_rss_mb": spread(result.before_mb),
            }
            for name, result in found.items()
        },
    }


def _error(found: Mapping[str, LongText]) -> float | None:
    """The largest difference of a coordinate between the two engines."""
    vectors = [np.array(found[name].vector) for name in (OWN, REFERENCE) if name in found and found[name].vector]
    return float(np.abs(vectors[0] - vectors[1]).max()) if len(vectors) == 2 else None


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The results as text."""
    yield f"one text of {record['tokens']} tokens, {record['model']}"
    for name, engine in record["engines"].items():
        if engine["error"]:
            yield f"  {name} failed: {engine['error']}"
        else:
            over = engine["over_rss_mb"]
            memory = f"{over['median']:.0f} MB over the model" if over else "memory not known"
            yield f"  {name}: {engine['time_s']['median']:.2f} s, {memory}"
    yield ""


def _exporter() -> str:
    """Changes with the code of the exporter, which makes the graph."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "export").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _model(folder: Path) -> Path:
    if not (folder / "model.safetensors").is_file():
        # In another process: it imports torch, whose memory this one should not hold meanwhile.
        subprocess.run([sys.executable, "-m", "benchmarks.long_text", "--write", str(folder)], cwd=ROOT, check=True)
    return folder


def write_model(like: Path, folder: Path) -> None:
    """Write the model, with the tokenizer of another one.

    Args:
        like: The folder of the other model.
        folder: The folder to write.
    """
    import torch
    import transformers

    ignored = shutil.ignore_patterns("*.safetensors", "*.md", "data_config.json", "config.json")
    shutil.copytree(like, folder, ignore=ignored, dirs_exist_ok=True)
    words = json.loads((like / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=words,
        max_position_embeddings=TOKENS,
        pad_token_id=0,
        cls_token_id=101,
        sep_token_id=102,
        bos_token_id=101,
        eos_token_id=102,
        # Wider than usual, so that attention prefers some tokens to others as it does in a trained model.
        initializer_range=0.05,
    )
    transformers.ModernBertModel(config).eval().save_pretrained(folder)
    _change(folder / "sentence_bert_config.json", max_seq_length=TOKENS)
    _change(folder / "tokenizer_config.json", model_max_length=TOKENS)
    widths = {"word_embedding_dimension": config.hidden_size, "embedding_dimension": config.hidden_size}
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir(exist_ok=True)
    known = json.loads((like / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    pooling.write_text(json.dumps(known | {key: widths[key] for key in widths if key in known}), encoding="utf-8")


def _change(path: Path, **settings: Any) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(known | settings), encoding="utf-8")


def main() -> None:
    """Measure every engine at every length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the model and its bundle, used again if it has them")
    parser.add_argument("--lengths", nargs="+", type=int, default=[TOKENS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write_model(packaged(), options.write)
        return
    with tempfile.TemporaryDirectory() as made:
        for tokens in options.lengths:
            found = measure(options.keep or Path(made), options.rounds, tokens)
            print("\n".join(lines(as_record(found, tokens))), flush=True)


if __name__ == "__main__":
    main()
