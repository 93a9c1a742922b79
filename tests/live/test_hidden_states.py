"""The hidden states of every family against those of transformers: one after the embeddings and after every layer."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from embedrt.engine.session import onnxruntime
from embedrt_export.families import FAMILIES
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.layers.inputs import text_inputs, unflatten
from embedrt_export.layers.scope import Scope
from embedrt_export.source.weights import Weights
from tests.kit.family_models import FAMILIES as TESTED
from tests.kit.family_models import REFERENCE, cases, write_repo

TOLERANCE = 1e-5
CASES = [(family, name) for family in TESTED for name in cases(family)]


@pytest.mark.parametrize(("family", "name"), CASES, ids=[f"{family}: {name}" for family, name in CASES])
def test_hidden_states(family: str, name: str, tmp_path: Path) -> None:
    check_hidden_states(family, name, tmp_path, types=1)


WITH_TYPES = {
    "albert": "plain",
    "bert": "many types, tanh gelu",
    "electra": "odd sizes, many types",
    "ernie": "one task, many types",
    "megatron-bert": "cls, odd sizes",
    "roberta": "relu, two types",
    "roformer": "odd sizes, many types",
    "xlm-roberta-xl": "odd sizes, two types",
}


@pytest.mark.parametrize("family", WITH_TYPES)
def test_hidden_states_by_token_type(family: str, tmp_path: Path) -> None:
    case = cases(family)[WITH_TYPES[family]]
    check_hidden_states(family, WITH_TYPES[family], tmp_path, types=case.config["type_vocab_size"])


def check_hidden_states(family: str, name: str, tmp_path: Path, *, types: int) -> None:
    """Compares all states of three rows, one padded, one of a single token; with random types where there are some."""
    case = dataclasses.replace(cases(family)[name], renames={}, repo_config=None)
    kind: Any = getattr(transformers, case.model_class)
    shapes = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]["tensors"]
    source = write_repo(tmp_path / "model", family, case, shapes)
    graph_file = write_graph(source, case.reference or family, tmp_path, token_type_ids=types > 1)
    ids = np.random.default_rng(0).integers(5, 130, (3, 24))
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    mask[2, 1:] = 0
    ids[mask == 0] = 1 if case.vocabulary == "mpnet" else 0
    feeds = {"input_ids": ids, "attention_mask": mask}
    if types > 1:
        feeds["token_type_ids"] = np.random.default_rng(1).integers(0, types, ids.shape)
    model = kind.from_pretrained(source, dtype=torch.float32).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        tensors = {key: torch.from_numpy(values) for key, values in feeds.items()}
        expected = [state.numpy() for state in model(**tensors, output_hidden_states=True).hidden_states]

    session = onnxruntime().InferenceSession(graph_file, providers=["CPUExecutionProvider"])
    found = session.run(None, feeds)

    assert len(found) == len(expected)
    for state, reference in zip(found, expected, strict=True):
        seen, wanted = state[mask == 1], reference[mask == 1]
        assert np.abs(seen - wanted).max() <= TOLERANCE * max(1.0, np.abs(wanted).max())


def write_graph(source: Path, family: str, folder: Path, *, token_type_ids: bool) -> Path:
    """A graph that has all hidden states as outputs."""
    config = FAMILIES[family].read_config(json.loads((source / "config.json").read_bytes()))
    with (
        DataFile(folder / "states.onnx.data") as data,
        Weights(source, FAMILIES[family].prefixes, FAMILIES[family].renames) as weights,
    ):
        graph = GraphBuilder(data)
        inputs = text_inputs(graph, token_type_ids=token_type_ids)
        for i, state in enumerate(FAMILIES[family].build(Scope(graph, weights, inputs), config)):
            value = unflatten(graph, state, inputs.shape, config.hidden_size)
            graph.output(f"state_{i}", value, ["batch", "sequence", config.hidden_size])
        graph.save(folder / "states.onnx")
    return folder / "states.onnx"
