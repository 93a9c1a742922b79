"""Bundles of every task, and a server with all of them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt.server.settings import ModelSettings, Settings
from embedrt_export import export
from tests.kit import late_models, score_models, sparse_models
from tests.kit.bundles import change
from tests.kit.models import make_model
from tests.kit.server import Running, serving
from tests.kit.shared_folders import shared_folder

PROMPTS = {"query": "the cat: ", "document": "dog ", "clustering": "one two "}


def _prompted(folder: Path) -> None:
    """A model whose vectors have other lengths than 1, with prompts and with ranges for int8 vectors."""
    source = make_model(folder.with_name("prompted-source"), normalize=False, prompts=PROMPTS, seed=3)
    export(source, folder)
    width = 32
    spread = np.linspace(0.5, 2.5, width)
    change(folder, lambda raw: raw.update(vector_ranges=[(-spread).tolist(), spread.tolist()]))


def _exported(make: Callable[[Path], Path], task: Any, folder: Path) -> None:
    export(make(folder.with_name(f"{folder.name}-source")), folder, task=task, reference="onnx")


_BUNDLES: dict[str, Callable[[Path], Any]] = {
    "prompted": _prompted,
    "sigmoid": partial(_exported, score_models.MODELS["sigmoid"], "score"),
    "identity": partial(_exported, score_models.MODELS["identity"], "score"),
    "three": partial(_exported, score_models.MODELS["three"], "score"),
    "sparse": partial(_exported, sparse_models.MODELS["splade"], "sparse"),
    "late": partial(_exported, late_models.MODELS["fixed"], "multi-vector"),
    "all": partial(_exported, late_models.three_outputs, None),
}


@pytest.fixture(scope="session")
def bundles(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles by name: one or more of each task."""
    made = {name: shared_folder(tmp_path_factory, f"served/{name}", make) for name, make in _BUNDLES.items()}
    return {"tiny": tiny_bundle, **made}


@pytest.fixture(scope="session")
def served(bundles: dict[str, Path]) -> Iterator[Running]:
    """A server with all of them; "tiny" is the first."""
    models = tuple(ModelSettings(name, str(folder)) for name, folder in bundles.items())
    with serving(Settings(models, threads=1)) as running:
        yield running
