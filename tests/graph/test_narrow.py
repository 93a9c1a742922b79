"""float16 and bfloat16: the graphs of every family, in CPU operators, against float32; and what cannot be exported."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from embedrt import DeviceError, Embedder, QualityError, UnsupportedModelError
from embedrt.bundle.manifest import read_bundle
from embedrt.bundle.reports import QualityReport
from embedrt.engine import stream
from embedrt_export import export
from embedrt_export.dtypes.float16.values import Values
from embedrt_export.graph import builder
from embedrt_export.graph.builder import DRAFT
from embedrt_export.heads.pooling import PACKED_POOLERS, POOLERS
from tests.kit.chains import Entry, draw, pooling, write_chain, write_static
from tests.kit.family_models import FAMILIES, REFERENCE, cases, texts_for, write_repo
from tests.kit.models import make_model
from tests.kit.narrow import write_narrow
from tests.kit.shared_folders import shared_folder

TOLERANCE = 1e-5
TEXTS = ["one cat", "two dogs by the river", "", "money in the bank . " * 9, "one [PAD] cat", "é 千里 🙂"]
CASES = [(family, name) for family in FAMILIES for name in cases(family) if name != "long"]


def family_model(family: str, name: str, folder: Path) -> tuple[Path, list[str], Any]:
    """A model of a family, its texts and their golden vectors."""
    made = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]
    source = write_repo(folder / "model", family, cases(family)[name], made["tensors"])
    return source, texts_for(made["max_seq_length"]), np.load(REFERENCE / f"{family}.npz")[name]


def head_size(config: dict[str, Any]) -> int:
    """The width of a head, by the keys of the families."""
    sizes = [config[name] for name in ("head_dim", "d_kv", "attention_head_size") if config.get(name) is not None]
    hidden = next((config[name] for name in ("hidden_size", "dim", "d_model") if name in config), 0)
    heads = next((config[name] for name in ("num_attention_heads", "n_heads", "num_heads") if name in config), 1)
    return int([*sizes, hidden // heads][0])


@pytest.mark.parametrize(("family", "name"), [pytest.param(*case, id=": ".join(case)) for case in CASES])
def test_the_form_for_cuda_computes_the_golden_vectors(family: str, name: str, tmp_path: Path) -> None:
    source, texts, expected = family_model(family, name, tmp_path)
    narrow = write_narrow(source, tmp_path / "narrow", "float32")
    together = narrow.vectors(texts)
    scale = max(1.0, float(np.linalg.norm(expected, axis=1).max()))
    assert np.abs(together - expected).max() <= TOLERANCE * scale
    for at in (0, len(texts) - 1):
        assert np.abs(narrow.vectors([texts[at]])[0] - expected[at]).max() <= TOLERANCE * scale
    config = cases(family)[name].config
    assert narrow.written.layout == ("padded" if family == "deberta-v2" or head_size(config) % 8 else "packed")
    operators = narrow.operators
    assert not operators["Softmax"], "attention is one operator"
    attention = operators["PackedMultiHeadAttention"] + operators["PagedAttention"] + operators["Attention"]
    assert attention >= 1
    if narrow.written.layout == "packed":
        assert not operators["Split"], "the parts of a linear layer are layers of their own"
        assert operators["Add"] <= 2, "sums are part of the norms after them, but for rows and offsets"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_dtypes_stay_close_to_float32(family: str, dtype: str, tmp_path: Path) -> None:
    source, texts, expected = family_model(family, next(iter(cases(family))), tmp_path)
    narrow = write_narrow(source, tmp_path / "narrow", dtype)
    found = narrow.vectors(texts)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / lengths
    assert cosines.min() >= (0.9999 if dtype == "float16" else 0.999)
    assert np.abs(found - expected).max() > 1e-7, "values are rounded"
    model = onnx.load(narrow.graph)
    element = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]
    wide = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    assert all(numpy_helper.to_array(tensor).size <= 64 for tensor in wide), "only rotary angles stay float32"
    assert any(tensor.data_type == element for tensor in model.graph.initializer)
    assert DRAFT not in {node.domain for node in model.graph.node}


def wide_heads(family: str, folder: Path) -> Path:
    """The first model of a family with heads of 16, which every kernel has."""
    name = next(iter(cases(family)))
    case = cases(family)[name]
    shapes = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]["tensors"]
    wide = {}
    for tensor, shape in shapes.items():
        rows = 2 if re.search(r"[qkv]_proj|[qk]_norm", tensor) else 1
        columns = 2 if "o_proj" in tensor else 1
        wide[tensor] = [rows * shape[0], *(columns * size for size in shape[1:])]
    wider = replace(case, config={**case.config, "head_dim": 16, "query_pre_attn_scalar": 16})
    if family != "gemma3_text":
        del wider.config["query_pre_attn_scalar"]
    return write_repo(folder, family, wider, wide)


@pytest.mark.parametrize("family", ["eurobert", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_packed_decoders_stay_close_to_float32(family: str, dtype: str, tmp_path: Path) -> None:
    narrow = write_narrow(wide_heads(family, tmp_path / "model"), tmp_path / "narrow", dtype)
    assert narrow.operators["PagedAttention"] + narrow.operators["PackedMultiHeadAttention"] >= 2
    assert bool(narrow.operators["PagedAttention"]) == (family != "eurobert" or dtype == "bfloat16")
    texts = texts_for(40)
    found, expected = narrow.vectors(texts), narrow.portable_vectors(texts)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() >= (0.9999 if dtype == "float16" else 0.999)


CHAINS: dict[str, list[Entry]] = {
    **{mode: [pooling(mode)] for mode in POOLERS},
    "several modes": [pooling(["cls", "lasttoken", "mean", "max"])],
    "without prompt": [pooling("mean", include_prompt=False)],
    "without prompt, first": [pooling("cls", include_prompt=False)],
    "without prompt, weighted": [pooling("weightedmean", include_prompt=False)],
    "layers": [
        (
            "WeightedLayerPooling",
            {"embedding_dimension": 32, "num_hidden_layers": 2, "layer_start": 0},
            {"layer_weights": np.array([1, 2, 3], np.float32)},
        ),
        pooling(),
    ],
    "dense, norm": [
        pooling(),
        (
            "Dense",
            {"in_features": 32, "out_features": 24, "activation_function": "torch.nn.modules.activation.Tanh"},
            {"linear.weight": draw(24, 32), "linear.bias": draw(24)},
        ),
        ("LayerNorm", {"dimension": 24}, {"norm.weight": draw(24), "norm.bias": draw(24, seed=1)}),
        ("Normalize", None, {}),
    ],
    "dense for tokens": [
        (
            "Dense",
            {
                "in_features": 32,
                "out_features": 16,
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
                "module_input_name": "token_embeddings",
                "module_output_name": "token_embeddings",
            },
            {"linear.weight": draw(16, 32)},
        ),
        pooling(dim=16),
    ],
}


@pytest.mark.parametrize("name", CHAINS)
def test_heads(name: str, tmp_path: Path) -> None:
    source = write_chain(make_model(tmp_path / "model", output_hidden_states=True), *CHAINS[name])
    exact = write_narrow(source, tmp_path / "exact", "float32")
    expected = exact.portable_vectors(TEXTS)
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(exact.vectors(TEXTS) - expected).max() <= TOLERANCE * scale
    narrow = write_narrow(source, tmp_path / "float16", "float16")
    assert np.abs(narrow.vectors(TEXTS) - expected).max() <= 5e-3 * scale
    assert not narrow.operators["ReduceMax"] + narrow.operators["ReduceL2"], "both need cuDNN"


def test_every_pooling_mode_has_a_packed_form() -> None:
    assert set(PACKED_POOLERS) == set(POOLERS)


def test_the_exporter_declares_the_inputs_that_the_runtime_makes() -> None:
    assert set(builder._PACKED_INPUTS) == set(stream.INPUTS)
    for name, made in stream.INPUTS.items():
        element, axes = builder._PACKED_INPUTS[name]
        assert len(axes) == len(made.sizes(stream.Shape(5, 2, 3))), name
        assert element == (TensorProto.FLOAT if made.dtype is np.float32 else TensorProto.INT32), name


def biased(folder: Path, scale: float) -> Path:
    """A model whose feed-forward of the second layer is scaled up, and back down behind the activation."""
    source = make_model(folder, hidden_act="relu")
    weights = load_file(source / "model.safetensors")
    at = "encoder.layer.1"
    for name, factor in (
        ("intermediate.dense.weight", scale),
        ("intermediate.dense.bias", scale),
        ("output.dense.weight", 1 / scale),
    ):
        weights[f"{at}.{name}"] = weights[f"{at}.{name}"] * np.float32(factor)
    save_file(weights, source / "model.safetensors")
    return source


@pytest.fixture(scope="module")
def narrow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in both narrow dtypes, without float32."""

    def make(folder: Path) -> None:
        export(make_model(folder.with_name("narrow-model")), folder, dtype=("float16", "bfloat16"))

    return shared_folder(tmp_path_factory, "narrow/bundle", make)


class TestExport:
    def test_a_bundle_of_narrow_dtypes(self, narrow_bundle: Path) -> None:
        manifest = read_bundle(narrow_bundle, "always")
        variants = manifest.routes["default"].variants
        assert [variant.dtype for variant in variants] == ["float16", "bfloat16"]
        for variant in variants:
            assert (variant.layout, variant.devices, variant.operators) == ("packed", ("cuda",), "onnxruntime")
            assert isinstance(variant.proof, QualityReport)
            assert variant.proof.is_good
            assert variant.packing is not None
        assert not list(narrow_bundle.rglob("draft-*"))
        assert "onnx/model.onnx_data" not in manifest.files

    @pytest.mark.parametrize("family", ["deberta-v2", "gemma3_text", "modernbert", "mpnet"])
    def test_masks_are_within_the_range(self, family: str, tmp_path: Path) -> None:
        """Windows, causal masks and masks of padding have a lowest number, which is none of the model's values."""
        source, _, _ = family_model(family, next(iter(cases(family))), tmp_path)
        export(source, tmp_path / "bundle", dtype="float16")

    def test_a_cpu_does_not_take_it(self, narrow_bundle: Path) -> None:
        with pytest.raises(DeviceError, match=r"runs on cuda only, not on 'cpu'; use device='cuda'"):
            Embedder(narrow_bundle, device="cpu", dtype="float16")

    def test_an_overflow_is_found_and_bfloat16_holds_it(self, tmp_path: Path) -> None:
        source = biased(tmp_path / "model", 3e4)
        with pytest.raises(
            QualityError, match=r"float16: the result of Gemm with encoder\.layer\.1\.intermediate.*bfloat16"
        ):
            export(source, tmp_path / "bundle", dtype="float16")
        assert not (tmp_path / "bundle").exists()
        export(source, tmp_path / "bundle", dtype="bfloat16")

    def test_a_weight_beyond_the_range(self, tmp_path: Path) -> None:
        with pytest.raises(QualityError, match=r"float16: encoder.*intermediate.*beyond the range.*bfloat16"):
            export(biased(tmp_path / "model", 1e7), tmp_path / "bundle", dtype="float16")

    def test_static_embeddings_have_none(self, tmp_path: Path) -> None:
        source = write_static(tmp_path / "model", {"embedding.weight": draw(133, 8)})
        with pytest.raises(UnsupportedModelError, match="float16: static embeddings"):
            export(source, tmp_path / "bundle", dtype="float16")

    def test_onnx_backbones_have_none(self, tmp_path: Path) -> None:
        source = make_model(tmp_path / "model")
        bundle = export(source, tmp_path / "bundle")
        (source / "onnx").mkdir()
        for name in ("model.onnx", "model.onnx_data"):
            (source / "onnx" / name).write_bytes((bundle / "onnx" / name).read_bytes())
        with pytest.raises(UnsupportedModelError, match=r"bfloat16: .* via 'onnx'"):
            export(source, tmp_path / "other", dtype="bfloat16", via="onnx")


def test_mixed_dtypes_are_an_error(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ToFloat", ["x"], ["a"], domain=DRAFT),
        helper.make_node("ToHidden", ["x"], ["b"], domain=DRAFT),
        helper.make_node("Add", ["a", "b"], ["y"], name="both"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    values = Values(helper.make_model(helper.make_graph(nodes, "mixed", [x], [])), tmp_path)
    with pytest.raises(ValueError, match="both mixes float32"):
        _ = values.regions
