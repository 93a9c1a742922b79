"""Every model family in every dtype on the real CUDA provider: no node on the CPU, no copies, a run, a CUDA graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from embedrt.bundle.manifest import Variant, read_manifest
from embedrt.engine.devices import DEVICES
from embedrt.engine.placement import choose_variant
from embedrt_export import export
from tests.cuda.feeds import Feeds
from tests.cuda.placement import placement, run_on_cuda
from tests.kit.family_models import FAMILIES, REFERENCE, cases, write_repo

CASES = [(family, name) for family in FAMILIES for name in cases(family)]
# What a padded graph leaves to the CPU: sizes, which the host knows by the shapes of tensors, and the index of the
# first pooled token, an ArgMax of integers.
SHAPE_OPERATORS = {"Add", "Cast", "Concat", "Gather", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze"}
FIRST_TOKEN = "ArgMax"
# They are placed on CUDA, but need cuDNN to run.
NEED_CUDNN = {"Conv", "ReduceL2", "ReduceMax"}


@pytest.fixture(scope="module", params=[pytest.param(case, id=f"{case[0]}: {case[1]}") for case in CASES])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model of a family, in every dtype."""
    family, name = request.param
    folder = tmp_path_factory.mktemp("family")
    record: dict[str, Any] = json.loads((REFERENCE / f"{family}.json").read_bytes())
    source = write_repo(folder / "model", family, cases(family)[name], record["cases"][name]["tensors"])
    return export(source, folder / "bundle")


def test_float32(bundle: Path) -> None:
    """The padded graph of standard operators."""
    graph, variant = on_cuda(bundle, "float32")
    assert (variant.layout, variant.operators) == ("padded", "portable")
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


def on_cuda(bundle: Path, dtype: str) -> tuple[Path, Variant]:
    """The graph that device "cuda" runs in a dtype."""
    (route,) = read_manifest(bundle).routes.values()
    variant = choose_variant(bundle, route, DEVICES["cuda"], dtype)
    return bundle / variant.file, variant
