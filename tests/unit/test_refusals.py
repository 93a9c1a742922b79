"""Models that no graph here can be: refused by the key that says so, with the next step."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder, ExportError, UnsupportedModelError
from embedrt_export import export
from embedrt_export.source.unsupported import check_supported
from tests.kit.edits import edit_json, edit_weights
from tests.kit.models import make_model

QUERY = "encoder.layer.0.attention.self.query"

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    **{
        method: (
            {"quantization_config": {"quant_method": method, "bits": 4}},
            rf"^config\.json: quantization_config '{method}': quantized weights cannot be exported; export the orig",
        )
        for method in ("gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors", "tomorrow")
    },
    "compressed": ({"compression_config": {"format": "pack-quantized"}}, "compression_config: quantized weights"),
    "vision": (
        {"vision_config": {"hidden_size": 8}},
        "vision_config: a tower for a modality other than text .* save the text",
    ),
    "audio": (
        {"audio_config": {"model_type": "whisper"}},
        "audio_config 'whisper': a tower for a modality other than text",
    ),
    "text tower": (
        {"text_config": {"model_type": "gemma3_text"}},
        "'gemma3_text': a text tower beside other towers",
    ),
    "num_experts": (
        {"num_experts": 8},
        "num_experts 8: a mixture of experts cannot be exported; use sentence-transformers",
    ),
    "num_local_experts": ({"num_local_experts": 8}, "num_local_experts 8: a mixture of experts"),
    "n_routed_experts": ({"n_routed_experts": 64, "moe_layer_freq": 1}, "n_routed_experts 64: a mixture"),
    "moe_every_n_layers": ({"moe_every_n_layers": 2}, "moe_every_n_layers 2: a mixture of experts"),
    "moe_intermediate_size": ({"moe_intermediate_size": 512}, "moe_intermediate_size 512: a mixture"),
    "pair": ({"model_type": "bart", "is_encoder_decoder": True}, "is_encoder_decoder True: an encoder-decoder model"),
    "pair of a family that has none": ({"is_encoder_decoder": True}, r"`model\.get_encoder\(\)\.save_pretrained"),
    "pruned": ({"pruned_heads": {"0": [1]}}, "pruned_heads: pruned attention heads"),
    "unknown": (
        {"model_type": "mamba"},
        r"model_type 'mamba' is not supported; supported: .*bert.*; use sentence-transformers",
    ),
    "own code": (
        {"model_type": "mine", "auto_map": {"AutoModel": "modeling_mine.Mine"}},
        r"model_type 'mine' is not supported, and code from the repo \(auto_map\) is never run; supported",
    ),
    "endless type": ({"model_type": "x" * 10**5}, "model_type 'x{80}' is not supported"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_refused_by_the_key_that_says_so(tmp_path: Path, name: str) -> None:
    changes, message = CONFIGS[name]
    model = make_model(tmp_path / "model")
    edit_json(model / "config.json", **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        export(model, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": None, "vision_config": {}, "is_encoder_decoder": False, "pruned_heads": {}},
        {"num_experts": 0, "moe_every_n_layers": 0, "moe_top_k": 2},
        {"num_local_experts": 1, "moe_top_k": 1},
        {"num_experts": None, "moe_every_n_layers": None},
        {"auto_map": {"AutoModel": "modeling_mine.Mine"}},
    ],
)
def test_what_says_no_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = make_model(tmp_path / "model")
    edit_json(model / "config.json", **changes)
    assert Embedder(export(model, tmp_path / "bundle")).dtype == "float32"


def test_an_encoder_of_a_pair_that_has_a_family() -> None:
    check_supported({"model_type": "t5", "is_encoder_decoder": True}, {"t5"})
    with pytest.raises(UnsupportedModelError, match="model_type 't5' is not supported"):
        check_supported({"model_type": "t5", "is_encoder_decoder": True}, {"bert"})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (f"{QUERY}.qweight", np.zeros((4, 32), np.int32)),
        (f"{QUERY}.weight_packed", np.zeros((4, 32), np.int32)),
        (f"{QUERY}.weight.absmax", np.zeros(16, np.float32)),
        (f"{QUERY}.SCB", np.zeros(32, np.float32)),
        (f"{QUERY}.weight_scale_inv", np.ones((1, 1), np.float32)),
    ],
)
def test_packed_weights_without_a_word_in_the_config(tmp_path: Path, name: str, values: Any) -> None:
    model = make_model(tmp_path / "model")
    edit_weights(model, lambda tensors: {**tensors, name: values})
    with pytest.raises(
        UnsupportedModelError, match=rf"^model\.safetensors: tensor '{name}' belongs to quantized weights"
    ):
        export(model, tmp_path / "bundle")


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.gguf", "rust_model.ot"]
)
def test_weights_in_another_format_only(tmp_path: Path, file: str) -> None:
    model = make_model(tmp_path / "model")
    shutil.move(model / "model.safetensors", model / file)
    with pytest.raises(
        ExportError, match=rf"^model: no model\.safetensors .*; {file} cannot be read; .*save_pretrained\(FOLDER\)"
    ):
        export(model, tmp_path / "bundle")
