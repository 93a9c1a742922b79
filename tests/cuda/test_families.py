"""Every model family in every dtype on the real CUDA provider: no node on the CPU, no copies, a run, a CUDA graph.

The graphs are those that an export writes, without its proof, which takes most of the time of an export.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from embedrt_export.dtypes.float16.graphs import write_graph
from embedrt_export.families import FAMILIES as ARCHITECTURES
from embedrt_export.graph.builder import Layout
from embedrt_export.graph.data_file import DataFile
from embedrt_export.options import ExportOptions
from embedrt_export.routes.decide import Decisions, decide
from embedrt_export.routes.layout import DATA
from embedrt_export.routes.modules import ModuleSpec
from embedrt_export.routes.repo import read_repo
from embedrt_export.routes.route import DraftGraph, build_draft, build_route
from embedrt_export.source.locate import locate
from tests.cuda.feeds import Feeds, packed_feeds
from tests.cuda.placement import placement, run_captured, run_on_cuda
from tests.kit.family_models import FAMILIES, REFERENCE, cases, write_repo

CASES = [(family, name) for family in FAMILIES for name in cases(family)]
# What a padded graph leaves to the CPU: sizes, which the host knows by the shapes of tensors, and the index of the
# first pooled token, an ArgMax of integers.
SHAPE_OPERATORS = {"Add", "Cast", "Concat", "Gather", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze"}
FIRST_TOKEN = "ArgMax"
# They are placed on CUDA, but need cuDNN to run.
NEED_CUDNN = {"Conv", "ReduceL2", "ReduceMax"}
PACKED_ATTENTION = ("PackedMultiHeadAttention", "PagedAttention")
NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
# Texts of one batch, in tokens.
LENGTHS = [5, 41, 1]


@dataclass(frozen=True)
class Model:
    """A small model of a family.

    Attributes:
        folder: A folder for graphs.
        chain: Its modules.
        decisions: How it is exported.
        float32: Its graph in float32.
        packs: True if the family has a packed form.
    """

    folder: Path
    chain: tuple[ModuleSpec, ...]
    decisions: Decisions
    float32: Path
    packs: bool

    def build(self, file: Path, data: DataFile, layout: Layout) -> DraftGraph:
        return build_draft(file, data, self.chain, self.decisions, layout)


@pytest.fixture(scope="module", params=[pytest.param(case, id=f"{case[0]}: {case[1]}") for case in CASES])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family, name = request.param
    folder = tmp_path_factory.mktemp("family")
    record: dict[str, Any] = json.loads((REFERENCE / f"{family}.json").read_bytes())
    source = write_repo(folder / "model", family, cases(family)[name], record["cases"][name]["tensors"])
    located = locate(source, None, None)
    spec = read_repo(located.folder, is_local=True, token=None)
    decisions = decide(spec, located, ExportOptions("auto", None, None), None)
    (chain,) = spec.chains.values()
    (folder / "onnx").mkdir()
    with DataFile(folder / DATA) as data:
        route = build_route(folder, data, "default", chain, decisions)
    packs = ARCHITECTURES[decisions.by_path[chain[0].path].family].packs
    return Model(folder, chain, decisions, folder / route.record.variants[0].file, packs)


def test_float32(model: Model) -> None:
    """The padded graph of standard operators."""
    require_padded(model.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow(model: Model, dtype: str) -> None:
    """The packed graph, or a padded one for attention that has no packed form."""
    graph = model.folder / f"{dtype}.onnx"
    with DataFile(model.folder / f"{dtype}.onnx_data") as data:
        written = write_graph(graph, data, model.build, model.folder, dtype, packs=model.packs)
    if written.packing is None:
        require_padded(graph)
        return
    found = placement(graph)
    assert not found.on_cpu
    assert found.copies == 0
    assert sum(found.operators[name] for name in PACKED_ATTENTION) == operators(model.float32)["Softmax"]
    assert not found.operators["Softmax"]
    assert unfused_norms(graph) == []
    feeds = packed_feeds(written.packing.inputs, LENGTHS, written.packing.length_step)
    shapes = run_on_cuda(graph, feeds)
    assert {len(LENGTHS), sum(LENGTHS)} == {shape[0] for shape in shapes}
    assert run_captured(graph, feeds, shapes) == 2


def require_padded(graph: Path) -> None:
    """Require that only sizes are computed on the CPU, and that a run passes if its kernels are here."""
    found = placement(graph)
    assert set(found.on_cpu) - {FIRST_TOKEN} <= SHAPE_OPERATORS
    # Only a copy to the host waits for the device: here the mask of the tokens.
    assert found.operators["MemcpyToHost"] == found.on_cpu[FIRST_TOKEN]
    inputs = onnx.load(graph, load_external_data=False).graph.input
    feeds = Feeds({value.name: np.ones((2, 7), np.int64) for value in inputs})
    if NEED_CUDNN & set(found.operators):
        with pytest.raises(RuntimeError, match="cuDNN is unavailable"):
            run_on_cuda(graph, feeds, strict=False)
    else:
        run_on_cuda(graph, feeds, strict=False)


def operators(graph: Path) -> Counter[str]:
    """How many nodes of each operator a graph has."""
    return Counter(node.op_type for node in onnx.load(graph, load_external_data=False).graph.node)


def unfused_norms(graph: Path) -> list[str]:
    """Normalizations of a sum of two values, which one operator computes with the sum."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    weights = {tensor.name for tensor in onnx.load(graph, load_external_data=False).graph.initializer}
    sums = {node.output[0] for node in nodes if node.op_type == "Add" and not weights.intersection(node.input)}
    return [node.name for node in nodes if node.op_type in NORMS and node.input[0] in sums]
