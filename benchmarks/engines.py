"""The engines that are compared, as data. How each is used is in `benchmarks.peers`.

All compute with the same weights and read at most as many tokens of a text as sentence-transformers does. Where the
documentation of an engine leaves a choice that matters for its speed, it has the setting that was fastest here, and its
own default beside it where that is another one.

Not here: EmbedAnything 0.7.1 (candle, as candding) asks the hub for the model at every load, also when it is told to be
offline and has it. infinity-emb 0.0.78 wants numpy < 2 and sentence-transformers < 4. text-embeddings-inference is a
server and no Python package.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from benchmarks import peers
from benchmarks.peers import Files, Loaded

Role = Literal["own", "peer", "reference"]


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        distribution: The package that pip installs.
        dtype: Number format of the computation: "float32", "bfloat16", "int8", "8-bit", or "static".
        settings: What a reader must know to judge the numbers.
        load: From files to the loaded engine. Imports happen inside, so that a process pays only for the engine that it
            runs.
        needs: What `benchmarks.prepare` has to make for it.
        slow: Whether it is left out unless it is named, because it would take most of the time.
        scales: Whether it is measured with one core too.
        python: The environment variable that names the interpreter it runs in; None for the one that compares.
        models: The models that it can run.
    """

    distribution: str
    dtype: str
    settings: str
    load: Callable[[Files], Loaded]
    needs: str | None = None
    slow: bool = False
    scales: bool = False
    python: str | None = None
    models: tuple[str, ...] = ("minilm", "base")

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        if self.python is None:
            try:
                return version(self.distribution)
            except PackageNotFoundError:
                return None
        interpreter = os.environ.get(self.python)
        if not interpreter:
            return None
        asked = f"from importlib.metadata import version; print(version({self.distribution!r}))"
        done = subprocess.run([interpreter, "-c", asked], capture_output=True, text=True, check=False)
        return done.stdout.strip() or None


REFERENCE = "sentence-transformers"
# embedrt's engine in float32 on the CPU, and its strongest rival that computes in bf16.
OWN_FLOAT32 = "embedrt"
OPENVINO_BFLOAT16 = "openvino-bf16"

ENGINES: dict[str, Engine] = {
    REFERENCE: Engine(
        "sentence-transformers",
        "float32",
        "torch, batch size 32 (default)",
        peers.sentence_transformers("float32"),
        scales=True,
    ),
    "sentence-transformers-bf16": Engine(
        "sentence-transformers",
        "bfloat16",
        'torch, model_kwargs={"dtype": "bfloat16"}, batch size 32 (default)',
        peers.sentence_transformers("bfloat16"),
    ),
    "sentence-transformers-onnx": Engine(
        "sentence-transformers",
        "float32",
        'backend="onnx" of release 5, batch size 32 (default), in an environment of its own: optimum-onnx 0.1.0 wants '
        "transformers < 4.58, release 6 wants 5 or later. EMBEDRT_ST_ONNX_PYTHON names its interpreter",
        peers.sentence_transformers_onnx,
        needs="optimum",
        python="EMBEDRT_ST_ONNX_PYTHON",
    ),
    "onnxruntime": Engine(
        "onnxruntime",
        "float32",
        "by hand: embedrt's graph, one session with default options, sorted by length, batches of 32",
        peers.onnxruntime,
        scales=True,
    ),
    "openvino": Engine(
        "openvino",
        "float32",
        "by hand: embedrt's graph, sorted by length, batches of at most 512 tokens (its best here), a stream a "
        "core, AsyncInferQueue; compiled once more for latency, for one text",
        peers.openvino("f32"),
        scales=True,
    ),
    OPENVINO_BFLOAT16: Engine(
        "openvino",
        "bfloat16",
        "the same with INFERENCE_PRECISION_HINT bf16",
        peers.openvino("bf16"),
    ),
    "fastembed": Engine(
        "fastembed",
        "float32",
        "embedrt's graph, batch size 256 (default): wants 9 GB of memory",
        peers.fastembed(256),
        needs="limited",
        slow=True,
    ),
    "fastembed-32": Engine(
        "fastembed",
        "float32",
        "embedrt's graph, batch size 32",
        peers.fastembed(32),
        needs="limited",
        slow=True,
    ),
    "fastembed-1": Engine(
        "fastembed",
        "float32",
        "embedrt's graph, batch size 1, its best here: it does not sort by length",
        peers.fastembed(1),
        needs="limited",
    ),
    "light-embed": Engine(
        "light-embed",
        "float32",
        "embedrt's graph, batch size 32 (default)",
        peers.light_embed(32),
        needs="limited",
        slow=True,
    ),
    "light-embed-1": Engine(
        "light-embed",
        "float32",
        "embedrt's graph, batch size 1, its best here",
        peers.light_embed(1),
        needs="limited",
    ),
    "candding": Engine(
        "candding",
        "float32",
        "candle, batch size 1, its best here",
        peers.candding,
        needs="hub",
        models=("minilm",),
    ),
    "llama.cpp": Engine(
        "llama-cpp-python",
        "float32",
        "a GGUF file of the weights in float32, batches of 256 tokens (its best here)",
        peers.llama_cpp("F32"),
        needs="gguf-F32",
    ),
    "llama.cpp-q8": Engine(
        "llama-cpp-python",
        "8-bit",
        "a GGUF file of the weights in Q8_0, batches of 256 tokens",
        peers.llama_cpp("Q8_0"),
        needs="gguf-Q8_0",
    ),
    "model2vec": Engine(
        "model2vec",
        "static",
        "no transformer: a table of token vectors distilled from the model, without PCA so that they share its space",
        peers.model2vec,
        needs="static",
        models=("minilm",),
    ),
    OWN_FLOAT32: Engine(
        "embedrt", "float32", "batch size 32 (default), planned by tokens", peers.embedrt(), scales=True
    ),
    "embedrt-int8": Engine(
        "embedrt", "int8", 'dtype="int8": the bundle\'s int8 variant', peers.embedrt(dtype="int8"), scales=True
    ),
    "embedrt-openvino": Engine("embedrt", "float32", 'device="openvino"', peers.embedrt(device="openvino")),
    "embedrt-openvino-bf16": Engine(
        "embedrt",
        "bfloat16",
        'device="openvino", dtype="bfloat16"',
        peers.embedrt(device="openvino", dtype="bfloat16"),
        scales=True,
    ),
}


def role(name: str) -> Role:
    """Whose engine it is."""
    if name == REFERENCE:
        return "reference"
    return "own" if ENGINES[name].distribution == "embedrt" else "peer"
