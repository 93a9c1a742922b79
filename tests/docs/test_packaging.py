"""Wheel and sdist built from this tree, and the wheel at work in an empty environment."""

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import embedrt
from embedrt import Embedder
from embedrt.engine.cuda_setup import CUDNN, LIBRARIES

ROOT = Path(__file__).parents[2]
MEGABYTES = 250
TEXTS = ["the cat sat on a river bank", "", "千里 🙂"]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In an environment that knows nothing of this tree."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this tree, and the wheel of that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    result = run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def wheel_of(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def names_in_wheel(built: Path) -> set[str]:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        return set(archive.namelist())


def shipped(folder: Path) -> set[str]:
    """The files of a package that belong into the wheel."""
    return {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
@pytest.mark.subprocess
def test_wheel_has_both_packages_and_nothing_else(built: Path) -> None:
    names = names_in_wheel(built)
    info = f"embedrt-{embedrt.__version__}.dist-info/"
    packages = shipped(ROOT / "embedrt") | shipped(ROOT / "export" / "embedrt_export")
    assert {"embedrt/py.typed", "embedrt/cli/main.py", "embedrt_export/families/bert.py"} <= packages
    assert {name for name in names if not name.startswith(info)} == packages
    assert f"{info}licenses/LICENSE" in names
    assert f"{info}entry_points.txt" in names
    assert wheel_of(built).name == f"embedrt-{embedrt.__version__}-py3-none-any.whl"


@pytest.mark.slow
@pytest.mark.subprocess
def test_wheel_metadata(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        text = archive.read(f"embedrt-{embedrt.__version__}.dist-info/METADATA").decode()
    lines = text.partition("\n\n")[0].splitlines()
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist")]

    def names(extra: str) -> set[str]:
        return {re.split("[<>=~]", line)[0] for line in needed if line.endswith(extra)}

    assert {line.split(">")[0] for line in needed if ";" not in line} == {
        "numpy",
        "tokenizers",
        "huggingface-hub",
        "click",
        "platformdirs",
        "tqdm",
    }
    assert names("extra == 'cpu'") == {"onnxruntime"}
    libraries = {"nvidia-cuda-runtime", "nvidia-cublas", "nvidia-curand", "nvidia-cudnn-cu13"}
    assert names("extra == 'gpu'") == {"onnxruntime-gpu", *libraries}
    for library in (*LIBRARIES, CUDNN):  # errors name the same packages and versions
        assert f"{library.package}{library.requirement}; extra == 'gpu'" in needed
    assert names("extra == 'export'") == {"onnx", "safetensors", "ml-dtypes", "protobuf", "jinja2"}
    assert names("extra == 'storage'") == {"safetensors", "pyarrow"}
    assert not [line for line in needed if "torch" in line or "transformers" in line]


@pytest.mark.slow
@pytest.mark.subprocess
def test_sdist(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "LICENSE", "README.md", "embedrt/py.typed", "export/embedrt_export/pipeline.py"):
        assert name in names
    assert "tests/docs/test_packaging.py" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".git/", "dist"))]


@pytest.mark.slow
@pytest.mark.subprocess
def test_wheel_alone_encodes_in_an_empty_environment(
    built: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only with the extra `cpu`: no onnx, no torch, and not much of the disk."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    installed = run(*pip, "install", "--quiet", f"{wheel_of(built)}[cpu]", cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr

    code = (
        "import json, sys, embedrt\n"
        "vectors = embedrt.Embedder(sys.argv[1]).encode(json.loads(sys.argv[2]))\n"
        "foreign = {'onnx', 'torch', 'transformers', 'safetensors', 'embedrt_export'} & set(sys.modules)\n"
        "print(json.dumps([embedrt.__file__, vectors.tolist(), sorted(foreign)]))"
    )
    encoded = run(python, "-I", "-c", code, tiny_bundle, json.dumps(TEXTS), cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert encoded.returncode == 0, encoded.stderr
    place, vectors, foreign = json.loads(encoded.stdout)
    assert Path(place).is_relative_to(tmp_path / "venv")
    assert foreign == []
    assert np.abs(np.array(vectors) - tiny.encode(TEXTS)).max() < 1e-6

    command = python.with_name("embedrt")
    shown = run(command, "encode", TEXTS[0], "--model", tiny_bundle, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert np.abs(np.array(json.loads(shown.stdout)) - tiny.encode(TEXTS[0])).max() < 1e-6

    verified = run(command, "verify", tiny_bundle, cwd=tmp_path)
    assert (verified.returncode, verified.stderr) == (0, "")

    exported = run(command, "export", tiny_bundle, "-o", tmp_path / "bundle", cwd=tmp_path)
    assert (exported.returncode, exported.stdout) == (1, "")
    assert "pip install 'embedrt[export]'" in exported.stderr
    assert "Traceback" not in exported.stderr

    listed = json.loads(run(*pip, "list", "--format=json", cwd=tmp_path).stdout)
    assert not {"onnx", "torch", "transformers", "safetensors", "scipy"} & {package["name"] for package in listed}
    files = [path for path in (tmp_path / "venv").rglob("site-packages/**/*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    with capsys.disabled():
        print(f"\nsite-packages with embedrt[cpu]: {size:.0f} MB in {len(files)} files, {len(listed)} packages")
    assert size < MEGABYTES
