"""Wheel and sdist, built from this tree or already in EMBEDRT_PACKAGES, and the wheel at work in empty environments."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import embedrt
from embedrt import Embedder
from embedrt.engine.cuda_setup import CUDNN, LIBRARIES
from tests.kit.shared_folders import shared_folder

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Every Python that the package names.
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
MEGABYTES = 250
TEXTS = ["the cat sat on a river bank", "", "千里 🙂"]
PINS = {} if not os.environ.get("PINNED") else {"PIP_CONSTRAINT": str(ROOT / "constraints/runtime.txt")}
"""Exact versions where the environment of this process has them too."""
KINDS = {".py", ".typed", ".json", ".npy", ".txt", ".html"}
BUILD_PINS = (
    {}
    if not PINS
    else {name: str(ROOT / "constraints/build.txt") for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
)


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
    if given := os.environ.get("EMBEDRT_PACKAGES"):
        return Path(given)

    def make(folder: Path) -> None:
        folder.mkdir()
        result = run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder, **BUILD_PINS)
        assert result.returncode == 0, result.stdout + result.stderr

    return shared_folder(tmp_path_factory, "packages", make)


def python_at_hand(version: str) -> Path | None:
    """An interpreter of that version on this machine: on the path, or installed by pyenv."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for path in [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}.*/bin/python"))]:
        if subprocess.run([path, "-m", "venv", "--help"], capture_output=True, check=False).returncode == 0:
            return path
    return None


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
def test_wheel_has_files_of_known_kinds(built: Path) -> None:
    """No test, picture, backup or bytecode was left in a package."""
    kinds = {Path(name).suffix for name in names_in_wheel(built) if ".dist-info/" not in name}
    assert kinds == KINDS
    assert not [name for name in names_in_wheel(built) if re.search(r"(^|/)(tests?|conftest)(/|\.py|_)", name)]


@pytest.mark.slow
@pytest.mark.subprocess
def test_wheel_metadata(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        text = archive.read(f"embedrt-{embedrt.__version__}.dist-info/METADATA").decode()
    metadata = Metadata.from_email(text)  # strict, as an index reads it
    assert (metadata.name, str(metadata.version)) == ("embedrt", embedrt.__version__)
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert str(metadata.requires_python) == PROJECT["requires-python"]
    assert (metadata.license_expression, metadata.license_files) == ("Apache-2.0", ["LICENSE"])
    assert set(metadata.provides_extra or []) == set(PROJECT["optional-dependencies"])
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
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone knows which files are the project's")
def test_sdist_has_no_file_but_the_projects(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    listed = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    assert names - {"PKG-INFO"} <= {*listed.stdout.splitlines()}


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_sdist_alone_becomes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", path)
    made = run(*command, cwd=tmp_path, **BUILD_PINS)
    assert made.returncode == 0, made.stderr

    def contents(wheel: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(wheel) as archive:
            # WHEEL has the version of the build tool, and RECORD the hash of that.
            names = [name for name in archive.namelist() if Path(name).name not in {"WHEEL", "RECORD"}]
            return {name: archive.read(name) for name in names}

    assert contents(wheel_of(tmp_path)) == contents(wheel_of(built))


@pytest.mark.slow
@pytest.mark.subprocess
def test_all_extras_install_together(built: Path, tmp_path: Path) -> None:
    """But for those that need other hardware, and bring another ONNX Runtime."""
    extras = ",".join(sorted({*PROJECT["optional-dependencies"]} - {"gpu", "openvino"}))
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run")
    report = tmp_path / "report.json"
    done = run(*command, "--ignore-installed", "--report", report, f"{wheel_of(built)}[{extras}]", cwd=tmp_path, **PINS)
    assert done.returncode == 0, done.stderr
    found = {canonicalize_name(one["metadata"]["name"]) for one in json.loads(report.read_text())["install"]}
    lines = [line for extra in extras.split(",") for line in PROJECT["optional-dependencies"][extra]]
    assert {canonicalize_name(Requirement(line).name) for line in (*PROJECT["dependencies"], *lines)} <= found


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("version", PYTHONS)
def test_wheel_alone_encodes_in_an_empty_environment(
    version: str,
    built: Path,
    tiny_bundle: Path,
    tiny: Embedder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an extra it imports, with the extra `cpu` it encodes: no onnx, no torch, and not much of the disk."""
    base = python_at_hand(version)
    if base is None:
        pytest.skip(f"Python {version} is not on this machine")
    assert run(base, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path).returncode == 0
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    installed = run(*pip, "install", "--quiet", wheel_of(built), cwd=tmp_path, **PINS)
    assert installed.returncode == 0, installed.stderr

    use = "import sys, embedrt; print(embedrt.__version__, sys.version_info[:2]); embedrt.Embedder(sys.argv[1])"
    used = run(python, "-I", "-c", use, tiny_bundle, cwd=tmp_path)
    assert (used.returncode, used.stdout) == (1, f"{embedrt.__version__} {tuple(map(int, version.split('.')))}\n")
    assert "pip install 'embedrt[cpu]'" in used.stderr

    installed = run(*pip, "install", "--quiet", f"{wheel_of(built)}[cpu]", cwd=tmp_path, **PINS)
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
