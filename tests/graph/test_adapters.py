"""LoRA adapters: merged as the formula says, whatever the config asks for, and refused by key where they are more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from embedrt import Embedder, EmbedrtError, ExportError, UnsupportedModelError
from embedrt.bundle.manifest import read_bundle
from embedrt_export import export
from embedrt_export.source.adapters import Adapter
from embedrt_export.source.weights import Weights
from tests.kit.bundles import parity
from tests.kit.edits import edit_json
from tests.kit.lora_adapters import CONFIG, INPUTS, LAYERS, QUERIES, ROOT, TENSORS, WORDS, lora, write_adapter
from tests.kit.models import Tensors, make_model
from tests.kit.mutations import mutations


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def adapted(model: Path) -> Path:
    return write_adapter(model, lora(dict.fromkeys(QUERIES, (32, 32)), 4))


def merged(model: Path) -> Tensors:
    """What the export reads."""
    with Weights(model, ("bert.",), adapter=Adapter(model, ("bert.",))) as weights:
        return {name: weights(name, *values.shape) for name, values in load_file(model / "model.safetensors").items()}


def check(model: Path, scalings: dict[str, float], replaced: Tensors | None = None) -> None:
    """The merged tensors against the formula in float64, tensor by tensor; and the bundle against that of them."""
    base, parts = load_file(model / "model.safetensors"), load_file(model / TENSORS)
    found = merged(model)
    for name, values in base.items():
        module = name.removesuffix(".weight")
        expected = (replaced or {}).get(name, values).astype(np.float64)
        if name.endswith(".weight") and module in scalings:
            if module == WORDS:
                a, b = (parts[f"{ROOT}{module}.lora_embedding_{x}"].astype(np.float64) for x in "AB")
                expected = expected + scalings[module] * (b @ a).T
            else:
                a, b = (parts[f"{ROOT}{module}.lora_{x}.weight"].astype(np.float64) for x in "AB")
                expected = expected + scalings[module] * (b @ a)
            assert np.abs(expected - values).max() > 0.1
        np.testing.assert_allclose(found[name], expected, atol=1e-6, rtol=0, err_msg=name)
    plain = make_model(model.parent / "plain")
    save_file({name: np.ascontiguousarray(values) for name, values in found.items()}, plain / "model.safetensors")
    bundle, same = export(model, model.parent / "a"), export(plain, model.parent / "b")
    assert read_bundle(bundle).fingerprint == read_bundle(same).fingerprint
    for file in ("onnx/model.onnx", "onnx/model.onnx_data"):
        assert (bundle / file).read_bytes() == (same / file).read_bytes()


def test_plain(adapted: Path) -> None:
    check(adapted, dict.fromkeys(QUERIES, 6 / 4))


def test_rank_stabilized(adapted: Path) -> None:
    edit_json(adapted / CONFIG, use_rslora=True)
    check(adapted, dict.fromkeys(QUERIES, 6 / 2))


def test_fan_in_fan_out_is_off_for_layers_that_store_no_transpose(adapted: Path) -> None:
    edit_json(adapted / CONFIG, fan_in_fan_out=True)
    check(adapted, dict.fromkeys(QUERIES, 6 / 4))


def test_patterns_and_embeddings(model: Path) -> None:
    tensors = lora({QUERIES[0]: (32, 32), INPUTS[1]: (64, 32)}, 4) | lora({WORDS: (133, 32)}, 4)
    tensors |= lora({QUERIES[1]: (32, 32)}, 2) | lora({INPUTS[0]: (64, 32)}, 3)
    write_adapter(
        model,
        tensors,
        target_modules=["query", "intermediate.dense", "word_embeddings"],
        rank_pattern={"layer.1.attention.self.query": 2, "^encoder.layer.0.intermediate.dense": 3, "uery": 9},
        alpha_pattern={"word_embeddings": 1.5, "intermediate.dense": 9, "layer.0.intermediate.dense": 100},
    )
    check(model, {QUERIES[0]: 6 / 4, QUERIES[1]: 6 / 2, INPUTS[0]: 9 / 3, INPUTS[1]: 9 / 4, WORDS: 1.5 / 4})


def test_modules_to_save_and_biases(model: Path) -> None:
    random = np.random.default_rng(3)
    own: dict[str, tuple[int, ...]] = {"embeddings.LayerNorm.weight": (32,), "embeddings.LayerNorm.bias": (32,)}
    own |= {f"{layer}.output.dense.weight": (32, 64) for layer in LAYERS}
    own |= {f"{layer}.output.dense.bias": (32,) for layer in LAYERS}
    replaced: Tensors = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in own.items()}
    biases: Tensors = {f"{module}.bias": random.normal(0, 1, 32).astype(np.float32) for module in QUERIES}
    tensors = lora(dict.fromkeys(QUERIES, (32, 32)), 4) | {ROOT + name: values for name, values in replaced.items()}
    tensors |= {ROOT + name.replace(".bias", ".base_layer.bias"): values for name, values in biases.items()}
    to_save = ["embeddings.LayerNorm", "encoder.layer.0.output.dense", "layer.1.output.dense"]
    write_adapter(model, tensors, bias="lora_only", modules_to_save=to_save)
    check(model, dict.fromkeys(QUERIES, 6 / 4), replaced | biases)


def test_all_biases(adapted: Path) -> None:
    base = load_file(adapted / "model.safetensors")
    biases: Tensors = {name: values + 1 for name, values in base.items() if name.endswith(".bias")}
    tensors = load_file(adapted / TENSORS) | {ROOT + name: values for name, values in biases.items()}
    write_adapter(adapted, tensors, bias="all")
    check(adapted, dict.fromkeys(QUERIES, 6 / 4), biases)


def test_half_precision(adapted: Path) -> None:
    tensors = {name: values.astype(np.float16) for name, values in load_file(adapted / TENSORS).items()}
    write_adapter(adapted, tensors)
    check(adapted, dict.fromkeys(QUERIES, 6 / 4))


def test_what_a_head_wraps(adapted: Path) -> None:
    """Tensors of the pooler are not used, and no reason to refuse; a prefix that the base has may be here too."""
    tensors = load_file(adapted / TENSORS) | lora({"pooler.query": (32, 32)}, 4)
    write_adapter(adapted, {name.replace(ROOT, f"{ROOT}bert."): values for name, values in tensors.items()})
    with_prefix = merged(adapted)
    write_adapter(adapted, tensors)
    for name, values in merged(adapted).items():
        np.testing.assert_array_equal(values, with_prefix[name])


def test_digest_is_of_the_merged_values(adapted: Path, tmp_path: Path) -> None:
    before = read_bundle(export(adapted, tmp_path / "a")).fingerprint
    edit_json(adapted / CONFIG, lora_alpha=7)
    after = read_bundle(export(adapted, tmp_path / "b")).fingerprint
    for path in (adapted / CONFIG, adapted / TENSORS):
        path.unlink()
    assert len({before, after, read_bundle(export(adapted, tmp_path / "c")).fingerprint}) == 3


@pytest.mark.parametrize("named", ["absolute", "beside", "current folder"])
def test_base_in_another_folder(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    expected = Embedder(export(adapted, tmp_path / "expected")).encode("the cat")
    base = tmp_path / ("model/base" if named == "beside" else "base")
    base.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(adapted / name, base / name)
    edit_json(adapted / CONFIG, base_model_name_or_path=str(base) if named == "absolute" else "base")
    if named == "current folder":
        monkeypatch.chdir(tmp_path)
    bundle = Embedder(export(adapted, tmp_path / "bundle"))
    np.testing.assert_array_equal(bundle.encode("the cat"), expected)
    assert str(tmp_path) not in (tmp_path / "bundle/embedrt.json").read_text()


Edit = Callable[[Path], Any]


def keys(**changes: Any) -> Edit:
    return lambda model: edit_json(model / CONFIG, **changes)


def tensors(change: Callable[[Tensors], Any]) -> Edit:
    def edit(model: Path) -> None:
        found = load_file(model / TENSORS)
        change(found)
        save_file(found, model / TENSORS)

    return edit


def with_base(name: str) -> Edit:
    def edit(model: Path) -> None:
        (model / "config.json").unlink()
        edit_json(model / CONFIG, base_model_name_or_path=name)

    return edit


A = f"{ROOT}{QUERIES[0]}.lora_A.weight"
B = f"{ROOT}{QUERIES[0]}.lora_B.weight"
SQUARE = np.ones((32, 32), np.float32)
REFUSED: dict[str, tuple[Edit, type[ExportError], str]] = {
    **{
        kind: (keys(peft_type=kind), UnsupportedModelError, "adapter_config.json.peft_type: expected one of 'LORA'")
        for kind in ("ADALORA", "IA3", "LOHA", "PREFIX_TUNING", "VERA")
    },
    **{
        key: (
            keys(**{key: value}),
            UnsupportedModelError,
            rf"^adapter_config\.json: '{key}' is not supported; only plain",
        )
        for key, value in {
            "use_dora": True,
            "layer_replication": [[0, 4], [2, 5]],
            "megatron_config": {"tensor_model_parallel_size": 2},
            "trainable_token_indices": [1, 2],
            "target_parameters": ["a"],
            "layers_to_transform": [0],
            "layers_pattern": "layer",
            "exclude_modules": ["key"],
            "lora_bias": True,
            "use_qalora": True,
            "loftq_config": {"loftq_bits": 4},
            "arrow_config": {"top_k": 3},
            "tomorrow": 1,
        }.items()
    },
    "pattern": (
        keys(target_modules=".*(query|key)"),
        UnsupportedModelError,
        r"target_modules '\.\*\(query\|key\)' is a p",
    ),
    "all linear": (
        keys(target_modules="all-linear"),
        UnsupportedModelError,
        "target_modules 'all-linear' is a pattern",
    ),
    "no targets": (keys(target_modules=None), UnsupportedModelError, "missing field 'target_modules'"),
    "evil pattern": (
        keys(rank_pattern={"(a+)+$": 1}),
        UnsupportedModelError,
        r"'\(a\+\)\+\$' is not a module name",
    ),
    "pissa": (
        keys(init_lora_weights="pissa"),
        UnsupportedModelError,
        "init_lora_weights 'pissa' changes the base weights",
    ),
    "rank 0": (keys(r=0), ExportError, "rank: expected a positive integer, got 0"),
    "rank 0 by pattern": (keys(rank_pattern={"query": 0}), ExportError, "rank: expected a positive integer, got 0"),
    "another rank": (
        keys(r=5),
        ExportError,
        r"adapter_model\.safetensors: tensor '.*query\.lora_A\.weight' has shape \(4, ",
    ),
    "bias": (keys(bias="some"), UnsupportedModelError, "adapter_config.json.bias: expected one of"),
    "alpha": (keys(lora_alpha="8"), UnsupportedModelError, "adapter_config.json.lora_alpha: expected a number"),
    "a matrix is missing": (tensors(lambda t: t.pop(B)), ExportError, rf"'{QUERIES[0]}' has only lora_A; get the file"),
    "both are missing": (
        tensors(lambda t: (t.pop(A), t.pop(B))),
        ExportError,
        f"no tensors for '{QUERIES[0]}', which is",
    ),
    "a stray matrix": (
        tensors(lambda t: t.update(lora({"encoder.layer.9.attention.self.query": (32, 32)}, 4))),
        ExportError,
        r"^weights: .* which does not use 'encoder\.layer\.9\.attention\.self\.query\.weight'$",
    ),
    "not a target": (
        tensors(lambda t: t.update(lora({"encoder.layer.0.attention.self.key": (32, 32)}, 4))),
        ExportError,
        r"'.*key\.lora_A\.weight' is for a module that is not one of the target_modules",
    ),
    "a weight of its own": (
        tensors(lambda t: t.update({f"{ROOT}{QUERIES[0]}.base_layer.weight": SQUARE})),
        UnsupportedModelError,
        "is neither a LoRA matrix nor one that adapter_config.json names",
    ),
    "magnitudes": (
        tensors(lambda t: t.update({f"{ROOT}{QUERIES[0]}.lora_magnitude_vector": SQUARE[0]})),
        UnsupportedModelError,
        "lora_magnitude_vector' is neither a LoRA matrix",
    ),
    "a bias that none asked for": (
        tensors(lambda t: t.update({f"{ROOT}{QUERIES[0]}.base_layer.bias": SQUARE[0]})),
        UnsupportedModelError,
        r"bias 'none', modules_to_save none",
    ),
    "two for one place": (
        tensors(lambda t: t.update({A.removeprefix(ROOT): t[A]})),
        ExportError,
        "update the same weight",
    ),
    "a base of no name": (with_base("~nobody/" + "x" * 300), ExportError, "is not a folder on this machine"),
    "NaN": (
        tensors(lambda t: t[A].fill(np.nan)),
        ExportError,
        r"^adapter_model\.safetensors: tensor '.*lora_A.* has NaN",
    ),
    "cut off": (
        lambda m: (m / TENSORS).write_bytes((m / TENSORS).read_bytes()[:-1]),
        ExportError,
        f"^{TENSORS}: not a complete",
    ),
    "only pickled": (
        lambda m: (m / TENSORS).rename(m / "adapter_model.bin"),
        ExportError,
        r"^model: no adapter_model\.safetensors; save the adapter as safetensors",
    ),
    "not JSON": (lambda m: (m / CONFIG).write_bytes(b"{"), ExportError, r"^adapter_config\.json: not valid JSON"),
    "no base": (
        lambda m: (m / "config.json").unlink(),
        ExportError,
        "base_model_name_or_path 'None' is not the name of a model",
    ),
    "a base that is nowhere": (
        with_base("/home/author/base"),
        ExportError,
        "'/home/author/base' is not a folder on this machine; put the base model's config.json",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(adapted: Path, tmp_path: Path, name: str) -> None:
    damage, kind, message = REFUSED[name]
    damage(adapted)
    with pytest.raises(kind, match=message):
        export(adapted, tmp_path / "out" / "bundle")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_the_hub_may_name_no_folder_of_this_machine(adapted: Path, tmp_path: Path) -> None:
    from embedrt_export.source.adapters import find_base

    base = make_model(tmp_path / "base")
    (adapted / "config.json").unlink()
    edit_json(adapted / CONFIG, base_model_name_or_path=str(base))
    assert find_base(adapted, is_local=True, token=None) == base
    with pytest.raises(ExportError, match="is not a folder on this machine"):
        find_base(adapted, is_local=False, token=None)


def test_settings_are_those_that_peft_writes(adapted: Path) -> None:
    assert json.loads((adapted / CONFIG).read_bytes())["peft_type"] == "LORA"
    assert not Adapter(adapted, ()).replaces(f"{QUERIES[0]}.weight")


@settings(max_examples=40, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("file", [CONFIG, TENSORS])
def test_any_damage_gives_a_bundle_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, file: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "mutated-adapter"
    if not root.exists():
        write_adapter(make_model(root / "model"), lora(dict.fromkeys(QUERIES, (32, 32)), 4))
    path, parent = root / "model" / file, root / "out"
    original = path.read_bytes()
    mutate = data.draw(mutations(len(original), min(len(original), 500)))
    try:
        path.write_bytes(mutate(original))
        try:
            export(root / "model", parent / "bundle")
        except EmbedrtError:
            assert not parent.exists() or list(parent.iterdir()) == []
        else:
            assert parity(read_bundle(parent / "bundle"))
    finally:
        path.write_bytes(original)
        shutil.rmtree(parent, ignore_errors=True)
