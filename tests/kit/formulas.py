"""What the architectures compute, written down in float64 numpy and straight from their definitions."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float64]
Formula = Callable[[Floats], Any]

erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Floats) -> Any:
    return 1 / (1 + np.exp(-x))


def gelu(x: Floats) -> Any:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x: Floats) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Floats) -> Any:
    return x * sigmoid(x)


ACTIVATION_FORMULAS: dict[str, Formula] = {
    "gelu": gelu,
    "gelu_10": lambda x: np.minimum(np.maximum(gelu(x), -10), 10),
    "gelu_accurate": gelu_tanh,
    "gelu_fast": lambda x: 0.5 * x * (1 + np.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_python_tanh": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "laplace": lambda x: 0.5 * (1 + erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": sigmoid,
    "silu": silu,
    "swish": silu,
    "tanh": np.tanh,
}


def mpnet_bucket(offset: int) -> int:
    """The bucket of the offset `key - query`, in integers.

    Buckets 8 to 15 begin at distances of 8 times the powers of the square root of 2. The architecture takes a logarithm
    in float32, and no distance is so near to a border that rounding moves it.
    """
    distance, half = abs(offset), 16 if offset > 0 else 0
    if distance < 8:
        return half + distance
    return half + min(15, 8 + max(k for k in range(20) if distance**2 >= 64 * 2**k))


def sentence_vector(folder: Path, ids: list[int]) -> Floats:
    """The vector of one text, alone, by the configs and weights of a model as `make_model` writes it."""
    config = json.loads((folder / "config.json").read_bytes())
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_bytes())["pooling_mode"]
    modules = json.loads((folder / "modules.json").read_bytes())
    x = token_embeddings(config, load_file(folder / "model.safetensors"), ids)
    by_mode = {"cls": x[0], "max": x.max(axis=0), "mean": x.mean(axis=0)}
    vector = np.concatenate([by_mode[mode] for mode in ([pooling] if isinstance(pooling, str) else pooling)])
    if modules[-1]["type"].endswith("Normalize"):
        vector = vector / max(np.linalg.norm(vector), 1e-12)
    return vector


def token_embeddings(config: dict[str, Any], stored: dict[str, NDArray[Any]], ids: list[int]) -> Floats:
    """`[tokens, hidden]` of one text."""
    weights = {name: values.astype(np.float64) for name, values in stored.items()}
    bert = config["model_type"] == "bert"
    hidden, heads = config["hidden_size"], config["num_attention_heads"]

    def linear(x: Floats, name: str) -> Floats:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def norm(x: Floats, name: str) -> Floats:
        centered = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + config["layer_norm_eps"])
        return np.asarray(centered / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def split(x: Floats) -> Floats:
        return x.reshape(len(ids), heads, hidden // heads).transpose(1, 0, 2)

    if bert:
        places = list(range(len(ids)))
        bias = np.zeros((heads, len(ids), len(ids)))
        names = [f"attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")]
        attention_norm = "attention.output.LayerNorm"
    else:
        # The padding id 1 stays at position 1, every other token gets the next one from 2 on.
        places, count = [], 1
        for token in ids:
            count += token != 1
            places.append(count if token != 1 else 1)
        table = weights["encoder.relative_attention_bias.weight"]
        buckets = [[mpnet_bucket(key - query) for key in range(len(ids))] for query in range(len(ids))]
        bias = table[np.array(buckets)].transpose(2, 0, 1)
        names = [f"attention.attn.{name}" for name in "qkvo"]
        attention_norm = "attention.LayerNorm"

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][places]
    if bert:
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        query, key, value = (split(linear(x, f"{layer}.{name}")) for name in names[:3])
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(hidden // heads) + bias
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        context = (shares @ value).transpose(1, 0, 2).reshape(len(ids), hidden)
        x = norm(linear(context, f"{layer}.{names[3]}") + x, f"{layer}.{attention_norm}")
        inside = ACTIVATION_FORMULAS[config["hidden_act"]](linear(x, f"{layer}.intermediate.dense"))
        x = norm(linear(inside, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
    return x
