"""BERT's relatives: configs that are refused, names that mean the same, and what repos store in more than one way."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from embedrt import Embedder, ExportError, UnsupportedModelError
from embedrt_export import export
from embedrt_export.families import FAMILIES, roformer
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.layers.inputs import text_inputs
from embedrt_export.layers.scope import Scope
from embedrt_export.source.weights import Weights
from tests.kit.edits import edit_json, edit_weights
from tests.kit.family_models import REFERENCE, cases, write_repo
from tests.kit.models import Tensors

TEXTS = ["one", "the river bank, money in the bank", "two boats " * 15]

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "roberta: no padding id": ("roberta", {"pad_token_id": None}, "pad_token_id null: positions count from it on"),
    "roberta: negative padding id": ("roberta", {"pad_token_id": -1}, "pad_token_id: expected an id, got -1"),
    "roberta: padding id beyond the positions": (
        "xlm-roberta",
        {"max_position_embeddings": 4, "pad_token_id": 3},
        "max_position_embeddings 4 leaves no position for a token, as positions count from the padding id 3 on",
    ),
    "xlm-roberta-xl: no padding id": ("xlm-roberta-xl", {"pad_token_id": None}, "pad_token_id null"),
    "xlm-roberta-xl: decoder": ("xlm-roberta-xl", {"is_decoder": True}, "is_decoder: expected one of False"),
    "relative positions": (
        "camembert",
        {"position_embedding_type": "relative_key_query"},
        "position_embedding_type: expected one of 'absolute', got str 'relative_key_query'",
    ),
    "albert: relative positions": (
        "albert",
        {"position_embedding_type": "relative_key"},
        "position_embedding_type: expected one of 'absolute'",
    ),
    "electra: no embeddings": ("electra", {"embedding_size": 0}, "embedding_size: expected a positive integer, got 0"),
    "electra: decoder": ("electra", {"is_decoder": True}, "is_decoder: expected one of False"),
    "ernie: no tasks": (
        "ernie",
        {"use_task_id": True, "task_type_vocab_size": 0},
        "task_type_vocab_size: expected a positive integer, got 0",
    ),
    "ernie: flag": ("ernie", {"use_task_id": "yes"}, "use_task_id: expected a boolean"),
    "albert: no groups": ("albert", {"num_hidden_groups": 0}, "num_hidden_groups: expected a positive integer, got 0"),
    "distilbert: two names": (
        "distilbert",
        {"n_heads": 4, "num_attention_heads": 2},
        "n_heads 4 and num_attention_heads 2 are two names of one number",
    ),
    "distilbert: heads": ("distilbert", {"n_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
    "distilbert: activation": ("distilbert", {"activation": "xielu"}, "hidden_act 'xielu' is not supported"),
    "roformer: odd heads": (
        "roformer",
        {"hidden_size": 36, "num_attention_heads": 12},
        "hidden_size 36 over num_attention_heads 12 is odd",
    ),
    "roformer: decoder": ("roformer", {"is_decoder": True}, "is_decoder: expected one of False"),
}


def make(folder: Path, family: str, name: str = "plain", **config: Any) -> Path:
    """The repo of one of the cases, with some keys of its config changed; its tensors stay as they are."""
    case = cases(family)[name]
    shapes = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]["tensors"]
    return write_repo(folder, family, replace(case, config={**case.config, **config}), shapes)


def vectors(source: Path) -> Any:
    return Embedder(export(source, source.parent / f"{source.name}-bundle")).encode(TEXTS)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    family, changes, message = REFUSED[name]
    source = make(tmp_path / "model", family)
    width = cases(family)["plain"].config.get("hidden_size", 32)
    edit_json(source / "config.json", **changes)
    edit_json(source / "1_Pooling" / "config.json", embedding_dimension=changes.get("hidden_size", width))
    with pytest.raises(UnsupportedModelError, match=rf"^config\.json.*{message}"):
        export(source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# Keys of the config that another architecture reads: here they change nothing.
FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"embedding_size": 16, "pad_token_id": 5, "use_task_id": True, "task_type_vocab_size": 3}),
    "roberta": ("roberta", {"embedding_size": 16, "use_task_id": True}),
    "electra": ("electra", {"pad_token_id": 7}),
    "bert-generation": ("bert-generation", {"type_vocab_size": 2, "pad_token_id": 7}),
    "distilbert": ("distilbert", {"hidden_act": "relu", "intermediate_size": 7, "layer_norm_eps": 0.5}),
    "mpnet": ("mpnet", {"pad_token_id": 7, "type_vocab_size": 2}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_keys_of_other_architectures(name: str, tmp_path: Path) -> None:
    family, keys = FOREIGN[name]
    plain, other = make(tmp_path / "plain", family), make(tmp_path / "other", family, **keys)
    np.testing.assert_array_equal(vectors(plain), vectors(other))


def test_distilbert_under_the_usual_names(tmp_path: Path) -> None:
    """transformers takes both names of a size, so repos have either, or both."""
    plain, other = make(tmp_path / "plain", "distilbert"), make(tmp_path / "other", "distilbert")
    edit_json(other / "config.json", dim=..., n_heads=..., hidden_size=32, num_attention_heads=4, num_hidden_layers=2)
    np.testing.assert_array_equal(vectors(plain), vectors(other))


PREFIXES = {
    "albert": "albert.",
    "bert-generation": "bert.",
    "camembert": "roberta.",
    "data2vec-text": "data2vec_text.",
    "distilbert": "distilbert.",
    "electra": "electra.",
    "ernie": "ernie.",
    "megatron-bert": "bert.",
    "roberta": "roberta.",
    "roberta-prelayernorm": "roberta_prelayernorm.",
    "roformer": "roformer.",
    "xlm-roberta": "roberta.",
    "xlm-roberta-xl": "roberta.",
}


@pytest.mark.parametrize("family", PREFIXES)
def test_saved_with_a_head_and_old_norm_names(family: str, tmp_path: Path) -> None:
    """A prefix before the names, tensors of a head beside them, and gamma and beta of the TensorFlow era."""

    def saved_with_a_head(tensors: Tensors) -> Tensors:
        renamed = {PREFIXES[family] + old_name(name): values for name, values in tensors.items()}
        return {**renamed, "classifier.weight": np.ones((2, 32), np.float32)}

    def old_name(name: str) -> str:
        norm = "norm" in name.lower()
        norm = norm or name.endswith(("ln.weight", "ln.bias"))
        return name.replace(".weight", ".gamma").replace(".bias", ".beta") if norm else name

    plain, headed = make(tmp_path / "plain", family), make(tmp_path / "headed", family)
    edit_weights(headed, saved_with_a_head)
    np.testing.assert_array_equal(vectors(plain), vectors(headed))


BACKBONES = {
    "albert": "encoder.albert_layer_groups.1.albert_layers.0.ffn.weight",
    "distilbert": "transformer.layer.9.ffn.lin1.weight",
    "electra": "embeddings_project.weight",
    "ernie": "embeddings.task_type_embeddings.weight",
    "roberta": "encoder.layer.9.output.dense.weight",
    "roberta-prelayernorm": "LayerNorm.gain",
    "roformer": "embeddings_project.weight",
    "xlm-roberta-xl": "encoder.layer.9.LayerNorm.weight",
}


@pytest.mark.parametrize("family", BACKBONES)
def test_a_tensor_too_many(family: str, tmp_path: Path) -> None:
    same_width = {"embedding_size": 32} if family == "electra" else {}
    name = "cls, no projection" if family == "electra" else "plain"
    source = make(tmp_path / "model", family, name, **same_width)
    edit_weights(source, lambda tensors: {**tensors, BACKBONES[family]: np.ones((2, 32), np.float32)})
    with pytest.raises(ExportError, match=f"which does not use '{BACKBONES[family]}'"):
        export(source, tmp_path / "bundle")


def test_roformer_without_its_table(tmp_path: Path) -> None:
    """The table of sines and cosines is stored as if it were a weight, or left out."""

    def with_table(tensors: Tensors) -> None:
        angles = [[place / 10000 ** (2 * i / 8) for i in range(4)] for place in range(64)]
        table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        tensors["encoder.embed_positions.weight"] = table.astype(np.float32)

    def without(tensors: Tensors) -> None:
        del tensors["encoder.embed_positions.weight"]

    drawn = make(tmp_path / "drawn", "roformer")
    stored, computed = make(tmp_path / "stored", "roformer"), make(tmp_path / "computed", "roformer")
    edit_weights(stored, with_table)
    edit_weights(computed, without)
    np.testing.assert_array_equal(vectors(stored), vectors(computed))
    assert np.abs(vectors(drawn) - vectors(computed)).max() > 1e-2


def test_roformer_sinusoids_of_a_long_model() -> None:
    table = roformer.sinusoids(1536, 64)
    assert table.shape == (1536, 64)
    assert table.dtype == np.float32
    assert table[1535, 1] == np.float32(np.sin(1535 / 10000 ** (2 / 64)))
    assert table[1535, 32] == np.float32(np.cos(1535))


def test_albert_stores_shared_layers_once(tmp_path: Path) -> None:
    source = make(tmp_path / "model", "albert")
    bundle = export(source, tmp_path / "bundle")
    graph = onnx.load(bundle / "onnx" / "model.onnx", load_external_data=False).graph
    names = [tensor.name for tensor in graph.initializer if ".ffn.weight" in tensor.name]
    assert names == ["encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"]
    uses = [node for node in graph.node if names[0] in node.input]
    assert len(uses) == cases("albert")["plain"].config["num_hidden_layers"]


def test_albert_reads_shared_layers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = Weights.__call__

    def count(weights: Weights, name: str, *shape: int) -> Any:
        read.append(name)
        return plain(weights, name, *shape)

    monkeypatch.setattr(Weights, "__call__", count)
    export(make(tmp_path / "model", "albert"), tmp_path / "bundle")
    assert "encoder.albert_layer_groups.0.albert_layers.0.ffn.weight" in read
    assert len(read) == len(set(read))


def test_parameters_are_shared_within_one_model_only(tmp_path: Path) -> None:
    """The files of two modules of a chain may have tensors of one name."""
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        save_file({"norm.weight": np.full(3, value, np.float32)}, tmp_path / name / "model.safetensors")
    with DataFile(tmp_path / "data") as data, Weights(tmp_path / "one") as one, Weights(tmp_path / "two") as two:
        graph = GraphBuilder(data)
        first, second = (Scope(graph, weights, text_inputs(graph, token_type_ids=False)) for weights in (one, two))
        assert first.parameter("norm.weight", 3) == first.at("norm").parameter("weight", 3)
        with pytest.raises(ValueError, match=r"two tensors named 'norm\.weight'"):
            second.parameter("norm.weight", 3)


def test_a_padding_id_of_the_tokenizer_that_the_config_has_not(tmp_path: Path) -> None:
    """Positions count from the config's id, whatever the tokenizer pads with."""
    source = make(tmp_path / "model", "roberta", "positions from another id")
    embedder = Embedder(export(source, tmp_path / "bundle"))
    assert embedder.manifest.routes["default"].tokenization.pad_id == 1
    together, alone = embedder.encode(TEXTS), np.stack([embedder.encode(text) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_defaults_are_those_of_the_config_class() -> None:
    """A config.json may leave out what equals the default of transformers; these are from its sources."""
    read = {family: FAMILIES[family].read_config({}) for family in PREFIXES}
    sizes = {
        family: (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
        for family, config in read.items()
    }
    assert sizes == {
        "albert": (30000, 4096, 12, 64),
        "bert-generation": (50358, 1024, 24, 16),
        "camembert": (30522, 768, 12, 12),
        "data2vec-text": (30522, 768, 12, 12),
        "distilbert": (30522, 768, 6, 12),
        "electra": (30522, 256, 12, 4),
        "ernie": (30522, 768, 12, 12),
        "megatron-bert": (29056, 1024, 24, 16),
        "roberta": (50265, 768, 12, 12),
        "roberta-prelayernorm": (50265, 768, 12, 12),
        "roformer": (50000, 768, 12, 12),
        "xlm-roberta": (30522, 768, 12, 12),
        "xlm-roberta-xl": (250880, 2560, 36, 32),
    }
    limits = {family: FAMILIES[family].positions(config) for family, config in read.items()}
    assert limits == {
        **dict.fromkeys(PREFIXES, 512),
        **dict.fromkeys(["camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"], 510),
        "xlm-roberta-xl": 512,
        "roformer": 1536,
    }
