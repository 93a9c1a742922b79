"""The real all-MiniLM-L6-v2 for programs of other languages, and texts to compare vectors on."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt.tasks.graph_values import graph_tokens
from embedrt_export import export
from embedrt_export.dtypes.int8.texts import OWN
from tests.kit.browser import Page, browsing, find_browser
from tests.kit.bundles import read_raw, write_raw
from tests.kit.edits import edit_json, edit_weights
from tests.kit.pages import ROOT
from tests.kit.shared_folders import shared_folder
from tests.kit.static_files import serving_files

LANGUAGES = Path(os.environ.get("EMBEDRT_LANGUAGES", ROOT / ".venv-languages")).absolute()
BROWSER = find_browser()
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (LANGUAGES / "node_modules").is_dir(), reason="needs node and npm"
)
needs_browser = pytest.mark.skipif(
    BROWSER is None or not (LANGUAGES / "node_modules").is_dir(), reason="needs Chromium and npm"
)
# Scripts and lengths of all kinds; the last ones are longer than what the model reads.
TEXTS = [
    *OWN.read_text(encoding="utf-8").splitlines()[::3],
    "",
    " \t\n",
    "a",
    "[MASK] is a token, and so is [SEP]",
    "tabs\tand\r\nlines, e\u0301 and \u00e9, \ufb01, \u200b zero width",
    "👩‍🔬 emoji 🇩🇪 and \U0001f9ff",
    "word " * 254,
    "word " * 255,
    "unaffordable " * 300,
    " ".join(OWN.read_text(encoding="utf-8").splitlines()),
]

# The tolerance of float32 in other engines.
TOLERANCE = 1e-5

Vectors = NDArray[np.float32]
Node = Callable[..., Any]


@pytest.fixture(scope="session")
def small_bundle(minilm_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layer of the real model in float32 and int8: the whole takes a minute to quantize."""

    def make(folder: Path) -> None:
        shutil.copytree(minilm_source, folder / "model")
        edit_json(folder / "model" / "config.json", num_hidden_layers=1)
        edit_weights(
            folder / "model",
            lambda tensors: {name: values for name, values in tensors.items() if not re.search(r"layer\.[1-9]", name)},
        )
        export(folder / "model", folder / "bundle", dtype=("float32", "int8"))

    return shared_folder(tmp_path_factory, "languages/small", make) / "bundle"


@pytest.fixture(scope="session")
def int8(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """The small model in Python, by its int8 graph of standard operators, which other languages run."""
    folder = tmp_path_factory.mktemp("portable") / "bundle"
    shutil.copytree(small_bundle, folder)
    raw = read_raw(folder)
    for route in raw["routes"].values():
        route["variants"] = [variant for variant in route["variants"] if not variant["devices"]]
    write_raw(folder, raw)
    return Embedder(folder, dtype="int8")


@pytest.fixture(scope="session")
def expected(minilm: Embedder) -> Vectors:
    """The vectors of the texts in float32."""
    return np.asarray(minilm.encode(TEXTS))


@pytest.fixture(scope="session")
def expected_int8(int8: Embedder) -> Vectors:
    """The vectors of the texts in int8, by the small model."""
    return np.asarray(int8.encode(TEXTS))


@pytest.fixture(scope="session")
def token_ids(minilm: Embedder) -> list[list[int]]:
    """The token ids of the texts."""
    tokens = graph_tokens(minilm.runners["default"], TEXTS)
    return [part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Run a program of JavaScript, which reads JSON and prints JSON; returns what it prints."""

    def run(code: str, **given: Any) -> Any:
        # Modules are searched from the program's own folder upwards.
        (tmp_path / "node_modules").symlink_to(LANGUAGES / "node_modules")
        (tmp_path / "program.mjs").write_text(code, encoding="utf-8")
        done = subprocess.run(
            [shutil.which("node") or "node", "program.mjs"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def site(minilm_bundle: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tutorial: the page, bundles and the two libraries."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "examples" / "browser" / "index.html", folder)
    (folder / "bundle").symlink_to(minilm_bundle)
    (folder / "small").symlink_to(small_bundle)
    (folder / "node_modules").symlink_to(LANGUAGES / "node_modules")
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The address of that folder on a web server that only sends files."""
    with serving_files(site) as url:
        yield url


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser."""
    assert BROWSER is not None
    with browsing(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page
