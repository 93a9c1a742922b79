"""LoRA adapters as peft and sentence-transformers save and load them, against the merged export."""

import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from embedrt import Embedder, UnsupportedModelError
from embedrt_export import export
from embedrt_export.proof.texts import parity_texts
from tests.kit.bundles import parity
from tests.kit.models import make_model, write_json

LINEAR = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"target_modules": ["query", "value"]}),
    "bert all": ("bert", {"target_modules": "all-linear", "lora_alpha": 3, "lora_dropout": 0.1}),
    "bert rslora": ("bert", {"target_modules": LINEAR, "use_rslora": True, "r": 3}),
    "bert fan": ("bert", {"target_modules": ["query", "intermediate.dense"], "fan_in_fan_out": True}),
    "bert embeddings": ("bert", {"target_modules": ["word_embeddings", "position_embeddings", "query"]}),
    "bert patterns": (
        "bert",
        {
            "target_modules": LINEAR,
            "rank_pattern": {"query": 2, "layer.1.output.dense": 8, "^encoder.layer.0.intermediate.dense": 1},
            "alpha_pattern": {"value": 3, "dense": 5, "layer.0.output.dense": 99},
        },
    ),
    "bert all biases": ("bert", {"target_modules": ["query"], "bias": "all"}),
    "bert lora biases": ("bert", {"target_modules": ["query", "output.dense"], "bias": "lora_only"}),
    "bert modules": ("bert", {"target_modules": ["query"], "modules_to_save": ["embeddings.LayerNorm", "key"]}),
    "bert no init": ("bert", {"target_modules": ["query"], "init_lora_weights": False}),
    "bert gaussian": ("bert", {"target_modules": ["query"], "init_lora_weights": "gaussian"}),
    "mpnet": ("mpnet", {"target_modules": ["q", "k", "v", "o"]}),
    "mpnet embeddings": ("mpnet", {"target_modules": ["word_embeddings", "dense"], "use_rslora": True}),
    "mpnet modules": (
        "mpnet",
        {"target_modules": ["q"], "modules_to_save": ["intermediate.dense", "relative_attention_bias"]},
    ),
}


def train(base: Path, target: Path, **config: Any) -> SentenceTransformer:
    """Adds an adapter, draws its every number anew, and saves it as sentence-transformers does."""
    torch.manual_seed(5)  # peft draws the adapter's first numbers, and transformers those that the model lacks
    model = SentenceTransformer(str(base), device="cpu", model_kwargs={"dtype": "float32"})
    model.add_adapter(LoraConfig(**{"r": 4, "lora_alpha": 8} | config))
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.empty_like(parameter).normal_(0, 0.2, generator=generator)
    model.save_pretrained(str(target))
    return model.eval()


def check(adapter: Path, base: Path, bundle: Path) -> float:
    """The worst coordinate of the export against sentence-transformers; both far from the base model alone."""
    embedder = Embedder(export(adapter, bundle))
    assert "sentence-transformers" in parity(embedder.manifest).reference
    texts = parity_texts(embedder.manifest.routes["default"].max_seq_length)
    reference = SentenceTransformer(str(adapter), device="cpu", model_kwargs={"dtype": "float32"})
    expected = np.stack([reference.encode(text) for text in texts])
    found = embedder.encode(texts)
    plain = SentenceTransformer(str(base), device="cpu", model_kwargs={"dtype": "float32"}).encode(texts)
    assert np.abs(expected - plain).max() > 1e-2
    error = float(np.abs(found - expected).max())
    assert error <= 2e-6
    return error


# peft turns it off for layers that store no transpose, and says so.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning")
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name: str, beside: bool, tmp_path: Path) -> None:
    architecture, config = ADAPTERS[name]
    base = make_model(tmp_path / "base", architecture, seed=len(name))
    train(base, tmp_path / "adapter", **config)
    assert not (tmp_path / "adapter" / "config.json").exists()
    if beside:
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(base / file, tmp_path / "adapter" / file)
    print(f"{name}: {check(tmp_path / 'adapter', base, tmp_path / 'bundle'):.1e}")


def test_half_precision_adapter_on_a_half_precision_base(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=LINEAR)
    for path in (base / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors"):
        save_file({name: values.astype(ml_dtypes.bfloat16) for name, values in load_file(path).items()}, path)
    check(tmp_path / "adapter", base, tmp_path / "bundle")


@pytest.mark.parametrize(("key", "value"), [("use_dora", True), ("trainable_token_indices", [3, 4])])
def test_what_peft_can_do_beyond_lora_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=["query"], **{key: value})
    with pytest.raises(UnsupportedModelError, match=f"'{key}' is not supported"):
        export(tmp_path / "adapter", tmp_path / "bundle")


def test_an_adapter_of_a_model_with_a_head(tmp_path: Path) -> None:
    """Tensors with the name of the backbone in front: whatever transformers makes of them, the export agrees."""
    base = make_model(tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=["query"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    root = "base_model.model."
    save_file({name.replace(root, f"{root}bert."): values for name, values in load_file(path).items()}, path)
    check(tmp_path / "adapter", base, tmp_path / "bundle")


def test_settings_that_only_name_the_maker(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=["query"])
    write_json(tmp_path / "adapter" / "special_tokens_map.json", {})
    check(tmp_path / "adapter", base, tmp_path / "bundle")
