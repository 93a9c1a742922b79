"""The models that are measured: all-MiniLM-L6-v2, and the shapes of others with seeded random weights.

`python -m benchmarks.gpu.models NAME quick|full DTYPE FOLDER` writes the model folder and exports it; a process each,
so that all are made at once.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import load_corpus
from benchmarks.models import packaged

LIMIT = 256
"""Tokens of a text that are read, as all-MiniLM-L6-v2 does."""
_COPIED = ("tokenizer.json", "special_tokens_map.json", "vocab.txt")
# Wider than usual, so that attention prefers some tokens to others as it does in a trained model.
_DEVIATION = 0.05
_PROOF_TEXTS = 50


@dataclass(frozen=True)
class GpuModel:
    """A model.

    Attributes:
        title: What it is.
        architecture: Its `model_type`.
        layers: Number of layers.
        hidden: Width of the hidden states.
        heads: Heads of queries.
        groups: Heads of keys and values.
        head_size: Width of a head.
        inner: Width inside the feed-forward part.
        pooling: The pooling mode.
        texts: Texts that it is measured with; fewer for a larger model.
    """

    title: str
    architecture: Literal["bert", "modernbert", "qwen3"]
    layers: int
    hidden: int
    heads: int
    groups: int
    head_size: int
    inner: int
    pooling: str
    texts: int

    @property
    def is_gated(self) -> bool:
        """True if the feed-forward part has a gate."""
        return self.architecture != "bert"

    def flops(self, tokens: float) -> float:
        """Floating point operations for a token of a text of so many tokens: two for every multiply-add of a matmul.

        Normalization, softmax, activations, embeddings and pooling are not counted.
        """
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.groups)
        forward = self.hidden * self.inner * (3 if self.is_gated else 2)
        scores = 2 * tokens * self.heads * self.head_size
        return 2 * self.layers * (attention + forward + scores)


MODELS = {
    "minilm": GpuModel("all-MiniLM-L6-v2: 6 layers, 384 wide", "bert", 6, 384, 12, 12, 32, 1536, "mean", 13646),
    "large": GpuModel("BERT, 24 layers, 1024 wide", "bert", 24, 1024, 16, 16, 64, 4096, "mean", 4096),
    "qwen3": GpuModel("Qwen3-0.6B shape: 28 layers, 1024 wide", "qwen3", 28, 1024, 16, 8, 128, 3072, "lasttoken", 4096),
    "base": GpuModel("BERT, 12 layers, 768 wide", "bert", 12, 768, 12, 12, 64, 3072, "mean", 8192),
    "modernbert": GpuModel("ModernBERT, 22 layers, 768 wide", "modernbert", 22, 768, 12, 12, 64, 1152, "mean", 8192),
}  # fmt: skip
"""By name, those of the targets first."""
TRAINED = "minilm"


def quick(model: GpuModel) -> GpuModel:
    """A tiny model of the same kind."""
    few = {"layers": 2, "hidden": 32, "heads": 2, "groups": min(model.groups, 2), "head_size": 16, "inner": 48}
    return replace(model, title=f"tiny {model.architecture}", texts=40, **few)  # type: ignore[arg-type]


def model_folder(name: str, folder: Path, *, is_quick: bool) -> Path:
    """The folder with the weights of a model whose files go into a folder of its own."""
    return packaged() if name == TRAINED and not is_quick else folder / "model"


def chosen(name: str, *, is_quick: bool) -> GpuModel:
    """A model by its name."""
    return quick(MODELS[name]) if is_quick else MODELS[name]


def write_model(model: GpuModel, like: Path, folder: Path) -> None:
    """Write a model folder as sentence-transformers saves one, with random weights in float16.

    Args:
        model: The model.
        like: A folder with the tokenizer.
        folder: Where to.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    for name in _COPIED:
        shutil.copy(like / name, folder)
    words = json.loads((like / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    _write(folder / "config.json", _config(model, words))
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LIMIT, "padding_side": "right", **special},
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})
    pooling = {"embedding_dimension": model.hidden, "pooling_mode": model.pooling}
    (folder / "1_Pooling").mkdir()
    _write(folder / "1_Pooling" / "config.json", pooling)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    _write(folder / "modules.json", modules)
    random = np.random.default_rng(0)
    tensors = {name: _draw(name, shape, random) for name, shape in tensor_shapes(model, words)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def tensor_shapes(model: GpuModel, words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors, as transformers saves them."""
    return {"bert": _bert, "modernbert": _modernbert, "qwen3": _qwen3}[model.architecture](model, words)


def _bert(model: GpuModel, words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = model.hidden, model.inner
    for kind, count in {"word": words, "position": 2 * LIMIT, "token_type": 2}.items():
        yield f"embeddings.{kind}_embeddings.weight", (count, hidden)
    yield from _with_bias("embeddings.LayerNorm", hidden)
    for i in range(model.layers):
        at = f"encoder.layer.{i}"
        for kind in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _with_bias(f"{at}.attention.{kind}", hidden, hidden)
        yield from _with_bias(f"{at}.intermediate.dense", inner, hidden)
        yield from _with_bias(f"{at}.output.dense", hidden, inner)
        yield from _with_bias(f"{at}.attention.output.LayerNorm", hidden)
        yield from _with_bias(f"{at}.output.LayerNorm", hidden)
    yield from _with_bias("pooler.dense", hidden, hidden)


def _modernbert(model: GpuModel, words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = model.hidden, model.inner
    yield "embeddings.tok_embeddings.weight", (words, hidden)
    yield "embeddings.norm.weight", (hidden,)
    for i in range(model.layers):
        at = f"layers.{i}"
        if i:
            yield f"{at}.attn_norm.weight", (hidden,)
        yield f"{at}.attn.Wqkv.weight", (3 * hidden, hidden)
        yield f"{at}.attn.Wo.weight", (hidden, hidden)
        yield f"{at}.mlp_norm.weight", (hidden,)
        yield f"{at}.mlp.Wi.weight", (2 * inner, hidden)
        yield f"{at}.mlp.Wo.weight", (hidden, inner)
    yield "final_norm.weight", (hidden,)


def _qwen3(model: GpuModel, words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = model.hidden, model.inner
    queries, keys = model.heads * model.head_size, model.groups * model.head_size
    yield "embed_tokens.weight", (words, hidden)
    for i in range(model.layers):
        at = f"layers.{i}"
        for kind, width in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{at}.self_attn.{kind}_proj.weight", (width, hidden)
        yield f"{at}.self_attn.o_proj.weight", (hidden, queries)
        for kind in ("gate", "up"):
            yield f"{at}.mlp.{kind}_proj.weight", (inner, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, inner)
        for kind in ("q", "k"):
            yield f"{at}.self_attn.{kind}_norm.weight", (model.head_size,)
        for kind in ("input", "post_attention"):
            yield f"{at}.{kind}_layernorm.weight", (hidden,)
    yield "norm.weight", (hidden,)


def _with_bias(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _draw(name: str, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float16]:
    values = random.standard_normal(shape, np.float32) * np.float32(_DEVIATION)
    return (values + np.float32(len(shape) == 1 and name.endswith("weight"))).astype(np.float16)


def _config(model: GpuModel, words: int) -> dict[str, Any]:
    common = {
        "model_type": model.architecture,
        "vocab_size": words,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.inner,
        "max_position_embeddings": 2 * LIMIT,
        "pad_token_id": 0,
    }
    if model.architecture == "bert":
        return common | {"architectures": ["BertModel"], "type_vocab_size": 2, "hidden_act": "gelu"}
    if model.architecture == "modernbert":
        ids = {"bos_token_id": 101, "cls_token_id": 101, "eos_token_id": 102, "sep_token_id": 102}
        return common | ids | {"architectures": ["ModernBertModel"]}
    heads = {"num_key_value_heads": model.groups, "head_dim": model.head_size}
    return common | heads | {"architectures": ["Qwen3Model"], "bos_token_id": 101, "eos_token_id": 102}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _few_texts(path: Path) -> Path:
    """Short texts to prove a bundle with, since the proof is on the CPU and the GPU waits for it."""
    heads = dict.fromkeys(" ".join(text.split())[:25] for text in load_corpus().texts)
    path.write_text("\n".join(list(heads)[:_PROOF_TEXTS]) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Write and export one model."""
    from embedrt_export import export

    name, size, dtype, place = sys.argv[1:]
    folder, is_quick = Path(place), size == "quick"
    source = model_folder(name, folder, is_quick=is_quick)
    if source != packaged():
        write_model(chosen(name, is_quick=is_quick), packaged(), source)
    calibration = None if dtype == "float32" else _few_texts(folder / "calibration.txt")
    export(source, folder / "bundle", dtype=dtype, calibration_texts=calibration)


if __name__ == "__main__":
    main()
