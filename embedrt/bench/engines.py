"""The engines that are compared, as data. `peers` has the use of each.

All compute with the same weights and read at most as many tokens of a text as sentence-transformers does. Where the
documentation of an engine leaves a choice that matters for its speed, it has the setting that was fastest in
measurements, and its own default beside it where that is another one.

Not here: EmbedAnything 0.7.1 (candle, as candding) asks the hub for the model at every load, even if it is offline and
has the model. infinity-emb 0.0.78 wants numpy < 2 and sentence-transformers < 4. text-embeddings-inference is a server
and no Python package.
"""

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal

from embedrt._version import __version__
from embedrt.bench.peers import HUB_ID
from embedrt.bundle.manifest import Manifest

Role = Literal["own", "peer", "reference"]

REFERENCE = "sentence-transformers"
OWN = "embedrt"
"""embedrt on the CPU in float32; its other engines have a suffix."""
OWN_INT8 = "embedrt-int8"
OPENVINO_BFLOAT16 = "openvino-bf16"
_SUFFIXES = {"bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Subject:
    """The model that is measured.

    Attributes:
        name: Its name.
        manifest: The bundle's manifest.
        model: The model folder, as on the hub; None where it is not at hand.
        no_model: Why it is not.
    """

    name: str
    manifest: Manifest
    model: Path | None
    no_model: str = ""


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        distribution: The package that pip installs.
        dtype: Number format of the computation: "float32", "bfloat16", "int8", "8-bit", or "static".
        settings: What a reader must know to judge the numbers.
        load: The function of `peers` that loads it.
        options: Its arguments.
        needs: The entry of `PREPARATIONS` that it loads.
        requires: Names of `REQUIREMENTS` that the model must meet.
        slow: True if it runs only where it is named, because it would take most of the time.
        scales: True if it is also measured with fewer cores.
        python: The environment variable that names the interpreter it runs in; None for the one that compares.
    """

    distribution: str
    dtype: str
    settings: str
    load: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None
    requires: tuple[str, ...] = ("graph",)
    slow: bool = False
    scales: bool = False
    python: str | None = None

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        if self.distribution == OWN:  # also of a checkout that is not installed
            return __version__
        if self.python is None:
            try:
                return version_of(self.distribution)
            except PackageNotFoundError:
                return None
        interpreter = os.environ.get(self.python)
        if not interpreter:
            return None
        asked = f"from importlib.metadata import version; print(version({self.distribution!r}))"
        done = subprocess.run([interpreter, "-c", asked], capture_output=True, text=True, check=False)
        return done.stdout.strip() or None


PEERS: dict[str, Engine] = {
    REFERENCE: Engine(
        "sentence-transformers",
        "float32",
        "torch, batch size 32 (default)",
        "sentence_transformers",
        {"dtype": "float32"},
        requires=("model",),
        scales=True,
    ),
    "sentence-transformers-bf16": Engine(
        "sentence-transformers",
        "bfloat16",
        'torch, model_kwargs={"dtype": "bfloat16"}, batch size 32 (default)',
        "sentence_transformers",
        {"dtype": "bfloat16"},
        requires=("model",),
    ),
    "sentence-transformers-onnx": Engine(
        "sentence-transformers",
        "float32",
        'backend="onnx" of release 5, batch size 32 (default), in an environment of its own: optimum-onnx 0.1.0 wants '
        "transformers < 4.58, release 6 wants 5 or later. EMBEDRT_ST_ONNX_PYTHON names its interpreter",
        "sentence_transformers_onnx",
        needs="optimum",
        requires=("model",),
        python="EMBEDRT_ST_ONNX_PYTHON",
    ),
    "onnxruntime": Engine(
        "onnxruntime",
        "float32",
        "by hand: embedrt's graph, one session with default options, sorted by length, batches of 32",
        "onnxruntime",
        scales=True,
    ),
    "openvino": Engine(
        "openvino",
        "float32",
        "by hand: embedrt's graph, sorted by length, batches of at most 512 tokens (its best here), a stream a "
        "core, AsyncInferQueue; compiled once more for latency, for one text",
        "openvino",
        {"precision": "f32"},
        scales=True,
    ),
    OPENVINO_BFLOAT16: Engine(
        "openvino",
        "bfloat16",
        "the same with INFERENCE_PRECISION_HINT bf16",
        "openvino",
        {"precision": "bf16"},
    ),
    "fastembed": Engine(
        "fastembed",
        "float32",
        "embedrt's graph, batch size 256 (default): wants 9 GB of memory",
        "fastembed",
        {"batch_size": 256},
        needs="limited",
        requires=("graph", "pooled"),
        slow=True,
    ),
    "fastembed-32": Engine(
        "fastembed",
        "float32",
        "embedrt's graph, batch size 32",
        "fastembed",
        {"batch_size": 32},
        needs="limited",
        requires=("graph", "pooled"),
        slow=True,
    ),
    "fastembed-1": Engine(
        "fastembed",
        "float32",
        "embedrt's graph, batch size 1, its best here: it does not sort by length",
        "fastembed",
        {"batch_size": 1},
        needs="limited",
        requires=("graph", "pooled"),
    ),
    "light-embed": Engine(
        "light-embed",
        "float32",
        "embedrt's graph, batch size 32 (default)",
        "light_embed",
        {"batch_size": 32},
        needs="limited",
        requires=("graph", "pooled"),
        slow=True,
    ),
    "light-embed-1": Engine(
        "light-embed",
        "float32",
        "embedrt's graph, batch size 1, its best here",
        "light_embed",
        {"batch_size": 1},
        needs="limited",
        requires=("graph", "pooled"),
    ),
    "candding": Engine(
        "candding",
        "float32",
        "candle, batch size 1, its best here",
        "candding",
        needs="hub",
        requires=("model", "catalogue"),
    ),
    "llama.cpp": Engine(
        "llama-cpp-python",
        "float32",
        "a GGUF file of the weights in float32, batches of 256 tokens (its best here)",
        "llama_cpp",
        {"kind": "F32"},
        needs="gguf-F32",
        requires=("model", "graph", "bert"),
    ),
    "llama.cpp-q8": Engine(
        "llama-cpp-python",
        "8-bit",
        "a GGUF file of the weights in Q8_0, batches of 256 tokens",
        "llama_cpp",
        {"kind": "Q8_0"},
        needs="gguf-Q8_0",
        requires=("model", "graph", "bert"),
    ),
    "model2vec": Engine(
        "model2vec",
        "static",
        "no transformer: a table of token vectors distilled from the model, without PCA so that they share its space",
        "model2vec",
        needs="static",
        requires=("model", "graph"),
        slow=True,
    ),
}


@dataclass(frozen=True)
class Preparation:
    """A file or folder that is made for an engine, in a process of its own.

    Attributes:
        file: The file with the function, without its ending.
        function: The function.
        options: Its arguments.
    """

    file: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)


PREPARATIONS: dict[str, Preparation] = {
    "limited": Preparation("peer_files", "limited"),
    "hub": Preparation("peer_files", "hub"),
    "static": Preparation("peer_files", "static"),
    "optimum": Preparation("peer_files", "optimum"),
    "gguf-F32": Preparation("gguf_file", "write_gguf", {"kind": "F32"}),
    "gguf-Q8_0": Preparation("gguf_file", "write_gguf", {"kind": "Q8_0"}),
}


def own_engines(devices: Iterable[str], dtypes: Iterable[str]) -> dict[str, Engine]:
    """Embedrt's engines, one for each pair of device and dtype."""
    found: dict[str, Engine] = {}
    pairs = [(device, dtype) for device in devices for dtype in dtypes]
    for device, dtype in pairs:
        parts = [OWN, *([device] if device != "cpu" else []), *([_SUFFIXES.get(dtype, dtype)] * (dtype != "float32"))]
        found["-".join(parts)] = Engine(
            "embedrt",
            dtype,
            f'device="{device}", dtype="{dtype}"; default batch size and token budget',
            "embedrt",
            {"device": device, "dtype": dtype},
            requires=(),
            scales=device == "cpu",
        )
    return found


def role(name: str) -> Role:
    """Whose engine it is, by its name."""
    if name == REFERENCE:
        return "reference"
    return "own" if name == OWN or name.startswith(f"{OWN}-") else "peer"


def _no_model(subject: Subject) -> str | None:
    return None if subject.model is not None else f"needs the original model: {subject.no_model}"


def _no_graph(subject: Subject) -> str | None:
    manifest = subject.manifest
    if len(manifest.routes) > 1 or manifest.task != "embed":
        return "needs a bundle with one route that makes a vector per text"
    (route,) = manifest.routes.values()
    if not any(
        (variant.layout, variant.operators) == ("padded", "portable") for variant in route.variants_in("float32")
    ):
        return "needs a padded float32 graph of standard operators, which the bundle lacks"
    if manifest.default_prompt_name is not None or route.tokenization.pooling_mask or manifest.truncate_dim is not None:
        return "runs the graph alone, and the model also needs a prompt or a truncation of the vectors"
    return None


def _not_pooled(subject: Subject) -> str | None:
    (route,) = subject.manifest.routes.values()
    types = [module.type for module in route.modules]
    modes = [module.settings.get("pooling_mode") for module in route.modules if module.type == "Pooling"]
    if [kind for kind in types if kind != "Normalize"] != ["Transformer", "Pooling"] or modes not in (
        [["mean"]],
        [["cls"]],
    ):
        return f"needs mean or CLS pooling and nothing after it but normalization, found {', '.join(types)}"
    return None


def _not_bert(subject: Subject) -> str | None:
    assert subject.model is not None
    (route,) = subject.manifest.routes.values()
    modes = [module.settings.get("pooling_mode") for module in route.modules if module.type == "Pooling"]
    files = all((subject.model / name).is_file() for name in ("vocab.txt", "model.safetensors"))
    if route.architecture == "bert" and modes == [["mean"]] and route.normalized and files and route.max_seq_length:
        return None
    return "needs a normalized BERT with mean pooling, vocab.txt and model.safetensors"


def _not_in_catalogue(subject: Subject) -> str | None:
    return None if subject.name == HUB_ID else f"knows {HUB_ID} and a few others by name only"


REQUIREMENTS: dict[str, Callable[[Subject], str | None]] = {
    "model": _no_model,
    "graph": _no_graph,
    "pooled": _not_pooled,
    "bert": _not_bert,
    "catalogue": _not_in_catalogue,
}
"""Needs of engines: each function returns why a model lacks something, or None."""


def obstacle(engine: Engine, subject: Subject) -> str | None:
    """Why an engine cannot run a model here; None if it can."""
    if engine.version is None:
        if engine.python is not None:
            return f"not installed: {engine.python} names no interpreter that has it"
        return f"not installed: `pip install {engine.distribution}` adds it"
    return next((why for name in engine.requires if (why := REQUIREMENTS[name](subject)) is not None), None)


def choose_peers(wanted: Sequence[str], subject: Subject) -> tuple[dict[str, Engine], dict[str, str]]:
    """The peers that run.

    Args:
        wanted: Names of `PEERS`; "auto" for all that are installed and not slow, "all" for the slow ones too, "none".
        subject: The model.

    Returns:
        The engines, and why others are left out, by name.

    Raises:
        ValueError: A name is unknown, or an engine that was named cannot run.
    """
    check_peers(wanted)
    if "none" in wanted:
        return {}, {}
    named = [name for name in wanted if name in PEERS]
    every = [name for name, engine in PEERS.items() if "all" in wanted or ("auto" in wanted and not engine.slow)]
    chosen, left_out = {}, {}
    for name in dict.fromkeys([*every, *named]):
        why = obstacle(PEERS[name], subject)
        if why is None:
            chosen[name] = PEERS[name]
        elif name in named:
            raise ValueError(f"--peers: {name}: {why}")
        else:
            left_out[name] = why
    return {name: engine for name, engine in PEERS.items() if name in chosen}, left_out


def check_peers(wanted: Sequence[str]) -> None:
    """Check the names of peers, before anything is made.

    Raises:
        ValueError: A name is unknown, or "none" is among others.
    """
    for name in wanted:
        if name not in {*PEERS, "auto", "all", "none"}:
            raise ValueError(f"--peers: expected auto, all, none, or names of {', '.join(PEERS)}, got {name!r}")
    if "none" in wanted and len(wanted) > 1:
        raise ValueError(f"--peers: expected none alone, got {','.join(wanted)}")
