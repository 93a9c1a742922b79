"""Vectors on other CPUs: float32 within the bounds of the golden vectors, int8 near to those of this CPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt_export import export
from tests.cpus.cpus import HERE, Cpu
from tests.kit.bundles import copy_bundle, read_raw, write_raw
from tests.kit.family_models import FAMILIES, REFERENCE, cases, texts_for, write_repo
from tests.kit.shared_folders import shared_folder

TOLERANCE = 1e-5  # of tests/graph/test_families.py
MINILM_TOLERANCE = 2e-6  # of tests/parity/test_golden.py
# An emulated CPU takes the families whose graphs differ most.
EMULATED_FAMILIES = ["bert", "deberta-v2", "modernbert", "qwen3", "t5"]
# int8 sums are exact everywhere. float32 parts round differently, which moves values over the edge of a level: AVX2
# moves a coordinate by 1.8e-3 at most (cosine 0.99994), SSE4 by 4.9e-3 (0.9996).
INT8_MIN_COSINE = 0.9990
INT8_MAX_ERROR = 1e-2
# Their kernels are those of this CPU, which has AVX-512 if they run here, or compute the same numbers.
SAME_AS_HERE = {"avx512", "vnni"}

Vectors = NDArray[np.float32]


def encode(cpu: Cpu, folder: Path, jobs: dict[str, tuple[Path, str, list[str]]]) -> dict[str, Vectors]:
    """Encode on a CPU, in one process: by name, a bundle, a dtype and texts."""
    outputs = {name: folder / f"{number}.npy" for number, name in enumerate(jobs)}
    work: list[dict[str, Any]] = [
        {"bundle": str(bundle), "dtype": dtype, "texts": texts, "output": str(outputs[name])}
        for name, (bundle, dtype, texts) in jobs.items()
    ]
    cpu.output("-m", "tests.cpus.encode", text=json.dumps(work))
    return {name: np.load(path, allow_pickle=False) for name, path in outputs.items()}


@pytest.fixture(scope="session")
def family_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of every family: its first case."""

    def make(folder: Path) -> None:
        for family in FAMILIES:
            name, case = next(iter(cases(family).items()))
            made = record(family)["cases"][name]
            export(write_repo(folder / "models" / family, family, case, made["tensors"]), folder / family)

    return shared_folder(tmp_path_factory, "cpus/families", make)


def record(family: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((REFERENCE / f"{family}.json").read_bytes())
    return content


def test_float32_of_every_family(cpu: Cpu, family_bundles: Path, tmp_path: Path) -> None:
    jobs, expected = {}, {}
    for family in EMULATED_FAMILIES if cpu.is_emulated else FAMILIES:
        name = next(iter(cases(family)))
        texts = texts_for(record(family)["cases"][name]["max_seq_length"])
        jobs[family] = family_bundles / family, "float32", texts
        expected[family] = np.load(REFERENCE / f"{family}.npz", allow_pickle=False)[name]
    for family, vectors in encode(cpu, tmp_path, jobs).items():
        scale = max(1.0, float(np.linalg.norm(expected[family], axis=1).max()))
        assert np.abs(vectors - expected[family]).max() <= TOLERANCE * scale, family


def test_float32_of_minilm(cpu: Cpu, int8_bundle: Path, tmp_path: Path) -> None:
    reference = Path(__file__).parents[1] / "reference"
    texts = json.loads((reference / "texts.json").read_bytes())
    golden: Vectors = np.load(reference / "minilm.npy", allow_pickle=False)
    chosen = [i for i, text in enumerate(texts) if len(text) < 40][:4] if cpu.is_emulated else range(0, len(texts), 3)
    found = encode(cpu, tmp_path, {"minilm": (int8_bundle, "float32", [texts[i] for i in chosen])})["minilm"]
    assert np.abs(found - golden[chosen]).max() <= MINILM_TOLERANCE


def test_int8_of_minilm_is_near_to_that_of_this_cpu(cpu: Cpu, int8_bundle: Path, tmp_path: Path) -> None:
    texts = json.loads((int8_bundle / "parity" / "texts.json").read_bytes())
    texts = [text for text in texts if len(text) < 40][:4] if cpu.is_emulated else texts
    here = Embedder(int8_bundle, dtype="int8").encode(texts)
    found = encode(cpu, tmp_path, {"minilm": (int8_bundle, "int8", texts)})["minilm"]
    if cpu.name in SAME_AS_HERE:
        np.testing.assert_array_equal(found, here)
    assert np.abs(found - here).max() <= INT8_MAX_ERROR
    assert (found * here).sum(axis=1).min() >= INT8_MIN_COSINE


def test_int8_of_a_small_model(cpu: Cpu, small_bundle: Path, tmp_path: Path) -> None:
    texts = json.loads((small_bundle / "parity" / "texts.json").read_bytes())
    here = Embedder(small_bundle, dtype="int8").encode(texts)
    found = encode(cpu, tmp_path, {"small": (small_bundle, "int8", texts)})["small"]
    assert (found * here).sum(axis=1).min() >= INT8_MIN_COSINE


def test_int8_is_the_same_on_kernels_that_cannot_saturate(
    cpu: Cpu, small_bundle: Path, int8_bundle: Path, tmp_path: Path
) -> None:
    """A manifest without the bound takes such kernels where the fastest ones saturate for some weights."""
    bundles = {"small": small_bundle} if cpu.is_emulated else {"small": small_bundle, "minilm": int8_bundle}
    jobs: dict[str, tuple[Path, str, list[str]]] = {}
    for name, bundle in bundles.items():
        texts = json.loads((bundle / "parity" / "texts.json").read_bytes())
        unbounded = copy_bundle(bundle, tmp_path / name)
        raw = read_raw(unbounded)
        for variant in raw["routes"]["default"]["variants"]:
            if variant["dtype"] == "int8":
                assert variant["largest_pair"] == 128
                variant["largest_pair"] = None
        write_raw(unbounded, raw)
        jobs |= {f"{name}, bounded": (bundle, "int8", texts), f"{name}, unbounded": (unbounded, "int8", texts)}
    found = encode(cpu, tmp_path, jobs)
    for name in bundles:
        np.testing.assert_array_equal(found[f"{name}, bounded"], found[f"{name}, unbounded"])


def test_here_is_a_cpu_too(small_bundle: Path, tmp_path: Path) -> None:
    """The process changes nothing; so a difference is the CPU's."""
    texts = json.loads((small_bundle / "parity" / "texts.json").read_bytes())
    found = encode(HERE, tmp_path, {"small": (small_bundle, "int8", texts)})["small"]
    np.testing.assert_array_equal(found, Embedder(small_bundle, dtype="int8").encode(texts))
