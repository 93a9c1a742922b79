"""Time and memory of one long text, by its number of tokens. Linux only.

Makes a ModernBERT of the base size (22 layers, 768 wide) with seeded random weights, which takes transformers and
sentence-transformers, and exports it. Every figure is from a process of its own, which first encodes short texts that
read all pages of the word embeddings; memory is what the peak RSS grows by after them.

    python benchmarks/long_texts.py --keep DIR
    python benchmarks/long_texts.py --keep DIR --engines embedrt sentence-transformers --lengths 512 8192
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
ENGINES = ("embedrt", "sentence-transformers")
WORDS, SPECIAL = 50368, ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MB = 1 << 10


def make(folder: Path) -> None:
    """Writes the model, with a tokenizer that makes one token of each word."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as modules
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    plain = folder / "transformer"
    ModernBertModel(ModernBertConfig(vocab_size=WORDS, **ids)).save_pretrained(plain)
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8192, **names).save_pretrained(plain)
    transformer = modules.Transformer(str(plain), max_seq_length=8192)
    SentenceTransformer(modules=[transformer, modules.Pooling(768)]).save(str(folder / "model"))


def encoder(engine: str, folder: Path) -> Callable[[str], Any]:
    """The `encode` of an engine."""
    if engine == "embedrt":
        from embedrt import Embedder

        return Embedder(folder / "bundle").encode
    from sentence_transformers import SentenceTransformer

    encode: Callable[[str], Any] = SentenceTransformer(str(folder / "model"), device="cpu").encode
    return encode


def memory(key: str) -> float:
    """A line of this process's status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / MB


def measure(engine: str, folder: Path, length: int, rounds: int) -> None:
    """Prints the figures of one length."""
    encode = encoder(engine, folder)
    words = list(range(len(SPECIAL), WORDS, 10))
    for start in range(0, len(words), 60):
        encode(" ".join(f"w{word}" for word in words[start : start + 60]))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    chosen = random.Random(length)
    text = " ".join(f"w{chosen.randrange(len(SPECIAL), WORDS)}" for _ in range(length - 2))
    times = []
    for _ in range(rounds):
        started, used = time.perf_counter(), time.process_time()
        encode(text)
        times.append((time.perf_counter() - started, time.process_time() - used))
    peak, after = memory("VmHWM") - before, memory("VmRSS") - before
    wall, cpu = (min(column) for column in zip(*times, strict=True))
    print(f"{engine:22} {length:5} {wall:9.3f} {cpu:9.3f} {peak:8.0f} {after:8.0f}", flush=True)


def main() -> int:
    """Measures every engine at every length, taking turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["embedrt"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the model and the bundle, used again if it has them")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one[0], arguments.keep, int(arguments.one[1]), arguments.rounds)
        return 0
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.keep or Path(made)
        if not (folder / "model").is_dir():
            make(folder)
        if not (folder / "bundle").is_dir():
            from embedrt_export import export

            export(folder / "model", folder / "bundle")
        print("engine                tokens  wall, s   CPU, s  peak, MB  after, MB")
        for length in arguments.lengths:
            for engine in arguments.engines:
                own = ["--one", engine, str(length), "--keep", str(folder), "--rounds", str(arguments.rounds)]
                subprocess.run([sys.executable, __file__, *own], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
