"""What repos of NomicBERT, GTE and Jina Embeddings v3 may hold: adapters, layers one by one, limits of their own."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from embedrt import Embedder
from embedrt.errors import ExportError
from embedrt_export import export
from tests.kit.family_models import REFERENCE, cases, draw, texts_for, write_repo
from tests.kit.models import write_json

TASKS = ("retrieval.query", "retrieval.passage", "text-matching")
RANK, ALPHA = 2, 3
TOLERANCE = 2e-6


def repo(folder: Path, family: str, name: str) -> Path:
    made = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]
    return write_repo(folder, family, cases(family)[name], made["tensors"])


def vectors(bundle: Path) -> NDArray[np.float32]:
    return Embedder(bundle).encode(texts_for(40))


def with_adapters(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The hub repo with an adapter on every weight that has room for one; returns its tensors."""
    path = repo(folder, "jina_embeddings_v3", "hub, no task") / "model.safetensors"
    tensors: dict[str, NDArray[np.float32]] = load_file(path)
    for name in [name for name in tensors if name.endswith(".original")]:
        rows, columns = tensors[name].shape
        adapter = name.removesuffix("original") + "0.lora_"
        tall, wide = [len(TASKS), rows, RANK], [len(TASKS), RANK, columns]
        # Embeddings are looked up, not multiplied: there A has the rows and B the columns.
        for part, shape in zip("AB" if "embeddings" in name else "BA", (tall, wide), strict=True):
            tensors[adapter + part] = draw(adapter + part, shape, 0.2)
    save_file(tensors, path, metadata={"format": "pt"})
    return tensors


def merged(tensors: dict[str, NDArray[np.float32]], task: int) -> dict[str, NDArray[np.float32]]:
    """Plain tensors with the adapter of a task in them, each entry written out as a sum over the rank."""
    plain = {}
    for name, values in tensors.items():
        if "lora" in name:
            continue
        if not name.endswith(".original"):
            plain[name] = values
            continue
        a, b = (tensors[name.replace("original", f"0.lora_{part}")][task].astype(np.float64) for part in "AB")
        product = np.einsum("ir,rj->ij", *((a, b) if "embeddings" in name else (b, a)))
        new = name.replace(".parametrizations.weight.original", ".weight")
        plain[new] = (values + product * ALPHA / RANK).astype(np.float32)
    return plain


@pytest.mark.parametrize("number", range(len(TASKS)), ids=TASKS)
def test_the_adapter_of_a_task_goes_into_the_weights(number: int, tmp_path: Path) -> None:
    tensors = with_adapters(tmp_path / "model")
    plain = repo(tmp_path / "plain", "jina_embeddings_v3", "hub, no task")
    save_file(merged(tensors, number), plain / "model.safetensors", metadata={"format": "pt"})
    found = vectors(export(tmp_path / "model", tmp_path / "bundle", adapter=TASKS[number]))
    assert np.abs(found - vectors(export(plain, tmp_path / "plain bundle"))).max() <= TOLERANCE


def test_without_a_task_adapters_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_adapters(tmp_path / "model")
    plain = repo(tmp_path / "plain", "jina_embeddings_v3", "hub, no task")
    with caplog.at_level(logging.WARNING, "embedrt.export"):
        found = vectors(export(tmp_path / "model", tmp_path / "bundle"))
    np.testing.assert_array_equal(found, vectors(export(plain, tmp_path / "plain bundle")))
    assert (
        "adapters for the tasks retrieval.query, retrieval.passage, text-matching, and none was chosen" in caplog.text
    )


def test_bundles_of_tasks_differ(tmp_path: Path) -> None:
    with_adapters(tmp_path / "model")
    chosen = [None, *TASKS]
    made = [Embedder(export(tmp_path / "model", tmp_path / f"{i}", adapter=task)) for i, task in enumerate(chosen)]
    assert [model.manifest.routes["default"].modules[0].settings.get("task") for model in made] == list(chosen)
    assert len({embedder.manifest.fingerprint for embedder in made}) == len(chosen)
    of_one_text = np.stack([embedder.encode("the river bank") for embedder in made])
    apart = np.abs(of_one_text[:, None] - of_one_text[None]).max(axis=2) + np.eye(len(chosen))
    assert apart.min() > 0.01


def test_unknown_task(tmp_path: Path) -> None:
    with_adapters(tmp_path / "model")
    expected = "adapter 'retrieval': the model has no adapter for this task; it has retrieval.query, retrieval.passage"
    with pytest.raises(ExportError, match=expected):
        export(tmp_path / "model", tmp_path / "bundle", adapter="retrieval")


def test_task_of_a_model_without_adapters(tmp_path: Path) -> None:
    model = repo(tmp_path / "model", "nomic_bert", "plain")
    with pytest.raises(ExportError, match="the model has no adapter for this task; it has none; leave the adapter out"):
        export(model, tmp_path / "bundle", adapter="retrieval.query")


def test_adapters_that_the_config_does_not_describe(tmp_path: Path) -> None:
    with_adapters(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_bytes())
    write_json(tmp_path / "model" / "config.json", {**config, "lora_rank": 4})
    with pytest.raises(ExportError, match=r"lora_A' has shape .* config.json requires"):
        export(tmp_path / "model", tmp_path / "bundle", adapter=TASKS[0])


@pytest.mark.parametrize("family", ["gte", "nomic_bert", "jina_embeddings_v3"])
def test_layers_stored_one_by_one(family: str, tmp_path: Path) -> None:
    packed, apart = (repo(tmp_path / name, family, "plain") for name in ("packed", "apart"))
    tensors = {}
    for name, values in load_file(apart / "model.safetensors").items():
        layer = re.sub(r"encoder\.layers?\.(\d+)\.(?:attn|attention|mixer)\.", r"layers.\1.self_attn.", name)
        layer = re.sub(r"encoder\.layers?\.(\d+)\.mlp\.", r"layers.\1.mlp.", layer)
        if match := re.search(r"Wqkv|qkv_proj|up_gate_proj", layer):
            parts = ("up_proj", "gate_proj") if match[0] == "up_gate_proj" else ("q_proj", "k_proj", "v_proj")
            for part, rows in zip(parts, np.split(values, len(parts)), strict=True):
                tensors[layer.replace(match[0], part)] = rows
        else:
            new = layer.replace("out_proj", "o_proj").replace("fc11", "up_proj").replace("fc12", "gate_proj")
            tensors[new if family == "jina_embeddings_v3" else new.replace("fc2", "down_proj")] = values
    save_file(tensors, apart / "model.safetensors", metadata={"format": "pt"})
    assert sum(name.endswith("q_proj.weight") for name in tensors) == 2
    found, expected = (vectors(export(model, tmp_path / f"{model.name} bundle")) for model in (apart, packed))
    np.testing.assert_array_equal(found, expected)


def test_scaling_that_depends_on_the_batch_sets_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = repo(tmp_path / "model", "nomic_bert", "hub")
    config = json.loads((model / "config.json").read_bytes())
    write_json(model / "config.json", {**config, "rotary_scaling_factor": 2, "max_trained_positions": 30})
    with caplog.at_level(logging.WARNING, "embedrt.export"):
        embedder = Embedder(export(model, tmp_path / "bundle"))
    assert embedder.manifest.routes["default"].max_seq_length == 30
    assert "max_seq_length 40 exceeds the 30 positions" in caplog.text
