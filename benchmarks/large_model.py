"""A model of any size through the export: how much memory, how long. Linux only; needs no torch.

Writes a BERT with seeded random weights as sharded safetensors, a block at a time, then exports it, verifies the bundle
and encodes with it, each in a process of its own, and says how much anonymous memory each took. Pages of mapped files
are not counted: the system takes them back when it needs them. An export must stay below twice the largest tensor plus
a constant, or the script ends with status 1.

    python benchmarks/large_model.py                    # 3 GB
    python benchmarks/large_model.py --keep DIR --hidden 1024 --inner 4096 --layers 8 --words 200
"""

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.kit.edits import edit_json
from tests.kit.models import make_model, write_json

MB = 1 << 20
BLOCK = 4 * MB
SHARD = 1000 * MB
SAMPLE_SECONDS = 0.005


def shapes(hidden: int, inner: int, layers: int, words: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a BERT."""
    tensors: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, hidden),
        "embeddings.position_embeddings.weight": (64, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        linears = [(f"attention.self.{name}", hidden, hidden) for name in ("query", "key", "value")]
        linears += [("attention.output.dense", hidden, hidden)]
        linears += [("intermediate.dense", inner, hidden), ("output.dense", hidden, inner)]
        for name, outputs, inputs in linears:
            tensors[f"{layer}.{name}.weight"] = (outputs, inputs)
            tensors[f"{layer}.{name}.bias"] = (outputs,)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = tensors[f"{name}.bias"] = (hidden,)
    return tensors


def blocks(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Iterator[bytes]:
    """The values of one tensor, a few MB at a time."""
    size = int(np.prod(shape))
    width = shape[-1] ** -0.5 if len(shape) == 2 else 0.05
    for start in range(0, size, BLOCK // 4):
        values = random.standard_normal(min(BLOCK // 4, size - start), dtype=np.float32) * np.float32(width)
        yield (values + 1 if name.endswith("LayerNorm.weight") else values).tobytes()


def write_shards(folder: Path, tensors: dict[str, tuple[int, ...]], seed: int) -> None:
    """Sharded safetensors and their index, by the format's description."""
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in tensors.items()}
    groups: list[list[str]] = [[]]
    for name, size in sizes.items():
        if groups[-1] and sum(sizes[other] for other in groups[-1]) + size > SHARD:
            groups.append([])
        groups[-1].append(name)
    random, files = np.random.default_rng(seed), {}
    for i, names in enumerate(groups):
        file = f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        header, at = {}, 0
        for name in names:
            header[name] = {"dtype": "F32", "shape": tensors[name], "data_offsets": [at, at + sizes[name]]}
            files[name], at = file, at + sizes[name]
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(head)) + head)
            for name in names:
                out.writelines(blocks(name, tensors[name], random))
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})


def generate(folder: Path, hidden: int, inner: int, layers: int, words: int, tokens: int) -> tuple[int, int]:
    """Writes the model; returns the bytes of all its tensors and of the largest."""
    make_model(folder, max_seq_length=tokens)
    (folder / "model.safetensors").unlink()
    edit_json(
        folder / "config.json",
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        vocab_size=words,
        num_attention_heads=hidden // 64,
    )
    edit_json(folder / "1_Pooling" / "config.json", embedding_dimension=hidden)
    tensors = shapes(hidden, inner, layers, words)
    write_shards(folder, tensors, seed=0)
    sizes = [4 * int(np.prod(shape)) for shape in tensors.values()]
    return sum(sizes), max(sizes)


def anonymous_mb() -> float:
    """Memory of this process that is no page of a mapped file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def step(name: str, model: str, bundle: str) -> str:
    """Does one step of the life of a bundle; returns a word about it."""
    import embedrt
    from embedrt.verify.bundle import verify
    from embedrt_export import export

    if name == "export":
        report = embedrt.Embedder(export(model, bundle)).manifest.routes["default"].variants[0].proof
        return "no proof" if report is None else report.summary
    if name == "verify":
        return verify(embedrt.Embedder(bundle))["default"].summary
    return f"shape {embedrt.Embedder(bundle).encode(['the cat', 'a river bank']).shape}"


def measured(work: Callable[[], str]) -> dict[str, float | str]:
    """Runs it and samples this process's memory meanwhile."""
    peak, done = [anonymous_mb()], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=sample)
    watcher.start()
    started = time.perf_counter()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return {"result": result, "seconds": time.perf_counter() - started, "anonymous_mb": peak[0]}


def main() -> int:
    """Runs the whole life of one model; 1 if an export took more than it may."""
    parser = argparse.ArgumentParser(description="A large model through the export: memory and time.")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=16384)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--words", type=int, default=35000)
    parser.add_argument("--tokens", type=int, default=16, help="max_seq_length: the proof takes its time by it")
    parser.add_argument("--allowed", type=int, default=500, metavar="MB", help="on top of twice the largest tensor")
    parser.add_argument("--large", type=int, metavar="MB", help="from which size on weights count as large")
    parser.add_argument("--steps", nargs="+", default=["export", "verify", "encode"])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where model and bundle go, and stay")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        from embedrt.engine import session

        if args.large is not None:
            session.LARGE_BYTES = args.large * MB
        print(json.dumps(measured(lambda: step(*args.child))))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary)
        total, largest = generate(root / "model", args.hidden, args.inner, args.layers, args.words, args.tokens)
        bound = 2 * largest / MB + args.allowed
        print(f"weights {total / MB:.0f} MB, largest tensor {largest / MB:.0f} MB")
        large = [] if args.large is None else ["--large", str(args.large)]
        peaks = {}
        for name in args.steps:
            child = [sys.executable, __file__, *large, "--child", name, str(root / "model"), str(root / "bundle")]
            found = json.loads(subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout)
            peaks[name] = found["anonymous_mb"]
            print(f"{name}: {found['anonymous_mb']:.0f} MB anonymous, {found['seconds']:.1f} s, {found['result']}")
        print(f"bound of an export: {bound:.0f} MB")
    return int(peaks.get("export", 0) > bound)


if __name__ == "__main__":
    sys.exit(main())
